"""The tables of the prediction log, in SQLite or PostgreSQL, and how they are reached.

    predictions      a row for each request that was answered
    labels           what became of it, by request id
    drift_windows    what stretches of the traffic looked like (`causeway.drift`)
    spool_positions  how far each spool file was read (`causeway.monitoring.keeper`)

Features, predictions and labels are JSON texts: they read the same in both databases, and in their shells. Times are
seconds since 1970.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
    inspect,
    make_url,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError

from causeway.errors import DatabaseUnusable

PATIENCE_S = 5
"""How long a statement waits for a lock that another process has, and for a connection to PostgreSQL."""

THOROUGH_S = 60
"""How long a statement takes that goes through all of the log, at most."""

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


def connect(url: str, *, limit_s: float = PATIENCE_S) -> Engine:
    """The database at an SQLAlchemy `url`, its tables made where they are missing.

    limit_s: what a statement may take in PostgreSQL. SQLite keeps a write-ahead log, so that readers and the writer do
    not wait for each other, and forces each commit to the disk; where its file is removed or replaced, the next
    transaction is in the one that is there then. Raises `DatabaseUnusable`, without the URL's password.
    """
    given = _parsed(url)
    engine = _engine(given, limit_s)
    event.listen(engine, "engine_connect", _make_tables)
    if _is_file(given):
        event.listen(engine, "do_connect", _make_file)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "checkout", _refuse_another_file)
    try:
        engine.connect().close()
    except Exception as exc:  # every driver has errors of its own
        engine.dispose()
        raise _unusable(given, exc) from exc
    return engine


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """A connection for those who only read: neither a file nor tables are made.

    Raises `DatabaseUnusable`, also for what fails while it is used; so where there is no prediction log yet.
    """
    given = _parsed(url)
    if _is_file(given):
        assert given.database is not None  # noqa: S101 - of our own state
        if not Path(given.database).exists():
            raise DatabaseUnusable(_shown(given), "there is no prediction log yet")
        given = given.set(database=f"file:{quote(given.database)}").update_query_dict({"mode": "rw", "uri": "true"})
    engine = _engine(given, THOROUGH_S)
    try:
        with engine.connect() as connection:
            yield connection
    except SQLAlchemyError as exc:
        raise _unusable(_parsed(url), exc) from exc
    finally:
        engine.dispose()


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


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # which quote it
        raise DatabaseUnusable("...", "its URL cannot be read") from None


def _engine(url: URL, limit_s: float) -> Engine:
    # Errors quote what was to be written otherwise, and logs have no features in them.
    if url.get_backend_name() == "sqlite":
        return create_engine(url, hide_parameters=True, connect_args={"timeout": PATIENCE_S})
    limits = f"-c statement_timeout={1000 * limit_s:.0f} -c lock_timeout={1000 * PATIENCE_S}"
    return create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args={**_POSTGRESQL, "options": limits})


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and bool(url.database)


def _shown(url: URL) -> str:
    """Where the database is, without how to get in."""
    return URL.create(url.get_backend_name(), host=url.host, port=url.port, database=url.database).render_as_string()


def _unusable(url: URL, exc: Exception) -> DatabaseUnusable:
    reason = str(getattr(exc, "orig", exc)).strip().partition("\n")[0]
    if url.password:
        reason = reason.replace(str(url.password), "***")
    return DatabaseUnusable(_shown(url), reason)


def _make_tables(connection: Connection) -> None:
    """Once for each connection of the driver: the database may be another one, without tables, than at the last."""
    if connection.info.get(_make_tables):
        return
    try:
        if not inspect(connection).has_table(spool_positions.name):
            connection.exec_driver_sql(_ONE_AT_A_TIME[connection.dialect.name])
            _METADATA.create_all(connection)
        connection.commit()
    except Exception:
        connection.close()
        raise
    connection.info[_make_tables] = True


def _make_file(dialect: Any, record: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> None:
    """The file is for its owner alone; it says which one it is before SQLite opens it."""
    path = Path(arguments[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        # Not opened: closing it would take SQLite's locks from this process's other connections.
        os.mknod(path, 0o600)
    record.info[_make_file] = path, path.stat()


def _refuse_another_file(connection: sqlite3.Connection, record: Any, pool: Any) -> None:
    """Makes the pool connect anew where the file was removed or replaced since."""
    path, opened = record.info[_make_file]
    with suppress(FileNotFoundError):
        if os.path.samestat(opened, path.stat()):
            return
    raise DisconnectionError(f"{path} is another file")


def _set_up_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    # auto_vacuum comes first: it can be chosen as long as the file is empty, and journal_mode writes to it.
    for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
