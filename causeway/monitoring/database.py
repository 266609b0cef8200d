"""The tables of the prediction log, in SQLite or PostgreSQL, and how they are reached.

    predictions      a row for each request that was answered
    labels           what became of it, by request id
    drift_windows    what stretches of the traffic looked like (`causeway.drift`)
    spool_positions  how far each spool file was read (`causeway.monitoring.keeper`)

Features, predictions and labels are JSON texts: they read the same in both databases, and in their shells. Times are
seconds since 1970.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    Float,
    Index,
    Insert,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects import postgresql, sqlite

from causeway.errors import DatabaseUnusable

PATIENCE_S = 5
"""How long a statement waits for another process that writes to SQLite, and a connection for PostgreSQL."""

_POSTGRESQL: Mapping[str, Any] = {
    "connect_timeout": PATIENCE_S,
    "keepalives_idle": PATIENCE_S,
    "keepalives_interval": PATIENCE_S,
    "keepalives_count": 2,
    "tcp_user_timeout": 3000 * PATIENCE_S,
}
"""A server that vanished without a word is given up after 3 times `PATIENCE_S`; by itself, Linux takes 15 minutes."""

_ONE_AT_A_TIME = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(7239054121)"}
"""Every process of a server connects, and the first of them makes the tables."""

_METADATA = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by INTEGER alone

predictions = Table(
    "predictions",
    _METADATA,
    Column("id", _Id, primary_key=True),
    Column("request_id", String(128), nullable=False, index=True),
    Column("time", Double, nullable=False, index=True),
    Column("model_version", String(128), nullable=False),
    Column("variant", String(16), nullable=False),
    Column("routing_key", String(256)),
    Column("trace_id", String(32)),
    Column("n_rows", Integer, nullable=False),
    Column("features", Text, nullable=False),
    Column("predictions", Text, nullable=False),
    Column("decode_ms", Float, nullable=False),
    Column("queue_ms", Float, nullable=False),
    Column("compute_ms", Float, nullable=False),
    Column("latency_ms", Float, nullable=False),
    Index("ix_predictions_model_version_time", "model_version", "time"),
)
"""`features` is [[...], ...] in the contract's order, `predictions` [[...], ...], both with a list for each row."""

labels = Table(
    "labels",
    _METADATA,
    Column("request_id", String(128), primary_key=True),
    Column("labels", Text, nullable=False),
    Column("time", Double, nullable=False, index=True),
)
"""`labels` is [...] with a number for each row; `time` is when they came."""

drift_windows = Table(
    "drift_windows",
    _METADATA,
    Column("id", _Id, primary_key=True),
    Column("model_version", String(128), nullable=False),
    Column("source", String(128), nullable=False),
    Column("opened", Double, nullable=False),
    Column("closed", Double, nullable=False),
    Column("n_rows", Integer, nullable=False),
    Column("counts", Text, nullable=False),
    Index("ix_drift_windows_model_version_closed", "model_version", "closed"),
)
"""`source` is the server that saw the rows; `counts` is a `causeway.drift` window."""

spool_positions = Table(
    "spool_positions",
    _METADATA,
    Column("segment", String(256), primary_key=True),
    Column("position", BigInteger, nullable=False),
)
"""`position` is the bytes of the spool file that are in the other tables."""


def connect(url: str) -> Engine:
    """The database at an SQLAlchemy `url`, its tables made where they are missing.

    SQLite keeps a write-ahead log, so that readers and the writer do not wait for each other, and forces each commit to
    the disk. Raises `DatabaseUnusable`, without the URL's password.
    """
    given = make_url(url)
    # Errors quote what was to be written otherwise, and logs have no features in them.
    if given.get_backend_name() == "sqlite":
        engine = create_engine(given, hide_parameters=True, connect_args={"timeout": PATIENCE_S})
        event.listen(engine, "connect", _set_up_sqlite)
    else:
        engine = create_engine(given, hide_parameters=True, pool_pre_ping=True, connect_args=dict(_POSTGRESQL))
    try:
        if given.get_backend_name() == "sqlite" and given.database:
            Path(given.database).parent.mkdir(parents=True, exist_ok=True)
        with engine.begin() as connection:
            connection.exec_driver_sql(_ONE_AT_A_TIME[engine.dialect.name])
            _METADATA.create_all(connection)
    except Exception as exc:  # every driver has errors of its own
        engine.dispose()
        raise DatabaseUnusable(given.render_as_string(), str(getattr(exc, "orig", exc))) from exc
    return engine


def upsert(connection: Connection, table: Table) -> Insert:
    """An INSERT INTO `table` that replaces the rows with the same primary key."""
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    insert = dialect.insert(table)
    key = [column.name for column in table.primary_key]
    replaced = {column.name: insert.excluded[column.name] for column in table.columns if column.name not in key}
    upserting: Insert = insert.on_conflict_do_update(index_elements=key, set_=replaced)
    return upserting


def sqlite_url(path: Path) -> str:
    """The URL of the SQLite database in the file `path`."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def _set_up_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    # auto_vacuum comes first: it can be chosen as long as the file is empty, and journal_mode writes to it.
    for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
