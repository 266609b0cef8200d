"""What the prediction log forgets, by age and by size, the oldest first; a little at a time, so that nobody waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Delete, Engine, Table, delete, exists, func, select, text

from causeway.monitoring.database import drift_windows, labels, predictions, spool_positions

DAY_S = 86_400.0

CHUNK = 500
"""Rows that one transaction deletes: SQLite has one writer at a time, and labels are waiting."""

BUDGET_S = 1.0
"""After so long the rest is left for the next time."""

HEADROOM = 0.95
"""Of the size that is allowed, what is left once it was exceeded."""

FORGOTTEN_S = 7 * DAY_S
"""How long positions of segments that are no more are kept, at least: another server's clock may be slow."""

POSTGRESQL_ROW_BYTES = 150
"""What PostgreSQL needs for a prediction beside its columns: a head, a line pointer and four index entries."""

LABELS_ROW_BYTES = 100
"""What the labels of a request take beside their text: the id, twice, the time, twice, and heads; about."""

PAGES = 256
"""Free pages that SQLite gives back at a time."""


def prune(engine: Engine, *, keep_days: float, keep_bytes: int, now: float) -> int:
    """Deletes what is too old or too much; returns the number of predictions that are gone.

    Predictions go after `keep_days`, and before that where the log takes more than `keep_bytes`; with them the labels
    that came before all that are left. Labels of which there is no prediction go before any prediction does.
    """
    ends = time.monotonic() + BUDGET_S
    oldest = now - keep_days * DAY_S
    gone = _delete(engine, predictions, predictions.c.time < oldest, ends)
    gone += _shrink(engine, keep_bytes, ends)
    with engine.connect() as connection:
        oldest = max(oldest, connection.scalar(select(func.min(predictions.c.time))) or oldest)
    _delete(engine, labels, labels.c.time < oldest, ends)
    _delete(engine, drift_windows, drift_windows.c.closed < now - keep_days * DAY_S, ends)
    forgotten = f"{int(now - max(FORGOTTEN_S, keep_days * DAY_S)):012d}"  # as segments are named
    _delete(engine, spool_positions, spool_positions.c.segment < forgotten, ends)
    if engine.dialect.name == "sqlite":
        _give_pages_back(engine, ends)
    return gone


def size(connection: Connection) -> int:
    """What the database takes for what is in it, in bytes.

    PostgreSQL keeps the space of deleted rows for later ones: its files do not shrink, so of what they take only what
    the living rows need counts, estimated from the newest of them.
    """
    if connection.dialect.name == "sqlite":
        pages, free, page_bytes = (_pragma(connection, name) for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * page_bytes
    return sum(_living_bytes(connection, table.name, newest) for table, newest in _NEWEST.items())


def _shrink(engine: Engine, keep_bytes: int, ends: float) -> int:
    """Deletes the oldest predictions where the log is too large; returns how many."""
    with engine.connect() as connection:
        n_bytes = size(connection)
        if n_bytes <= keep_bytes:
            return 0
    aim = HEADROOM * keep_bytes
    n_bytes -= _delete_stray_labels(engine, n_bytes - aim, ends)
    if n_bytes <= aim:
        return 0
    with engine.connect() as connection:
        n_rows = connection.scalar(select(func.count()).select_from(predictions)) or 0
        excess = int(n_rows * (1 - aim / n_bytes))
        newest = connection.scalar(select(predictions.c.time).order_by(predictions.c.time).offset(excess).limit(1))
    return 0 if newest is None else _delete(engine, predictions, predictions.c.time < newest, ends)


def _delete_stray_labels(engine: Engine, n_bytes: float, ends: float) -> int:
    """Deletes labels without a prediction, the oldest first, until so much is free; returns how much, about."""
    freed = 0
    is_stray = ~exists().where(predictions.c.request_id == labels.c.request_id)
    stray = select(labels.c.request_id, func.length(labels.c.labels)).where(is_stray)
    while freed < n_bytes and time.monotonic() < ends:
        with engine.connect() as connection:
            found = connection.execute(stray.order_by(labels.c.time).limit(CHUNK)).all()
        if not found:
            break
        chosen = []
        for request_id, length in found:
            chosen.append(request_id)
            freed += length + LABELS_ROW_BYTES
            if freed >= n_bytes:
                break
        with engine.begin() as connection:
            connection.execute(delete(labels).where(labels.c.request_id.in_(chosen)))
    return freed


def _delete(engine: Engine, table: Table, condition: Any, ends: float) -> int:
    """Deletes the rows, in small transactions, until none is left or the time is over; returns how many."""
    return sum(_chunks(engine, _oldest(table, condition), ends))


def _oldest(table: Table, condition: Any) -> Delete:
    (key,) = table.primary_key
    return delete(table).where(key.in_(select(key).where(condition).limit(CHUNK)))


def _chunks(engine: Engine, statement: Delete, ends: float) -> Iterator[int]:
    n = CHUNK
    while n == CHUNK and time.monotonic() < ends:
        with engine.begin() as connection:
            n = connection.execute(statement).rowcount
        yield n


def _give_pages_back(engine: Engine, ends: float) -> None:
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        while _pragma(connection, "freelist_count") and time.monotonic() < ends:
            # A row for each page, without columns, which SQLAlchemy takes for nothing to fetch.
            driver.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


_NEWEST = {predictions: "id", labels: "time"}
"""What grows, and by which column its newest rows are found."""


def _living_bytes(connection: Connection, table: str, newest: str) -> int:
    """What a table of PostgreSQL needs, with as many rows as its own statistics have."""
    query = f"""
        SELECT pg_total_relation_size('{table}') AS files,
               (SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = '{table}'::regclass) AS n_rows,
               (SELECT avg(pg_column_size(t.*)) FROM
                   (SELECT * FROM {table} ORDER BY {newest} DESC LIMIT 1000) t) AS row_bytes
    """  # noqa: S608 - names of ours
    found = connection.execute(text(query)).one()
    files: int = found.files
    return min(files, int((found.n_rows or 0) * (float(found.row_bytes or 0) + POSTGRESQL_ROW_BYTES)))
