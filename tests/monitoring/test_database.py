"""The tables in both databases."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from causeway.errors import DatabaseUnusable
from causeway.monitoring import database
from causeway.monitoring.database import drift_windows, labels, predictions, spool_positions
from load_tests.machine import free_port
from tests.conftest import ROOT
from tests.postgres import Postgres

PREDICTION: dict[str, Any] = {
    "request_id": "a",
    "time": 1_700_000_000.123456,
    "model_version": "tiny:one",
    "variant": "champion",
    "routing_key": None,
    "trace_id": None,
    "n_rows": 2,
    "features": "[[0.1,1.0],[-1e-30,0.0]]",
    "predictions": "[[0.30000001192092896],[1.0]]",
    "decode_ms": 0.1,
    "queue_ms": 0.2,
    "compute_ms": 0.3,
    "latency_ms": 0.7,
}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    connected = database.connect(database_url)
    yield connected
    connected.dispose()


def test_a_prediction_reads_as_it_was_written(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(predictions), [PREDICTION, PREDICTION])
    with engine.connect() as connection:
        one, other = connection.execute(select(predictions).order_by(predictions.c.id)).mappings()
    assert other["id"] > one["id"]
    read = {name: one[name] for name in PREDICTION}
    assert {name: read[name] for name in read if not name.endswith("_ms")} == {
        name: value for name, value in PREDICTION.items() if not name.endswith("_ms")
    }
    assert [read[name] for name in ("decode_ms", "latency_ms")] == pytest.approx([0.1, 0.7])
    assert msgspec.json.decode(read["features"]) == [[0.1, 1.0], [-1e-30, 0.0]]


@pytest.mark.parametrize(
    ("table", "before", "after"),
    [
        (
            labels,
            {"request_id": "a", "labels": "[0.0]", "time": 1.5},
            {"request_id": "a", "labels": "[1.0]", "time": 2.5},
        ),
        (
            spool_positions,
            {"segment": "host/1.spool", "position": 7},
            {"segment": "host/1.spool", "position": 2**40},
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_upsert_replaces_the_row_with_its_key_and_no_other(
    engine: Engine, table: Any, before: dict[str, Any], after: dict[str, Any]
) -> None:
    key = next(iter(table.primary_key)).name
    neighbour = {**before, key: "b"}
    for rows in ([before, neighbour], [after]):
        with engine.begin() as connection:
            connection.execute(database.upsert(connection, table), rows)
    with engine.connect() as connection:
        assert [dict(row) for row in connection.execute(select(table).order_by(key)).mappings()] == (
            [neighbour, after] if table is spool_positions else [after, neighbour]
        )


def test_a_drift_window_gets_an_id(engine: Engine) -> None:
    window = {"model_version": "tiny:one", "source": "host", "opened": 1.0, "closed": 2.0, "n_rows": 3, "counts": "{}"}
    with engine.begin() as connection:
        connection.execute(insert(drift_windows), window)
        assert connection.execute(select(drift_windows.c.id)).scalar_one() == 1


def test_processes_that_come_together_all_get_the_tables(database_url: str) -> None:
    code = (
        "import sys; from causeway.monitoring import database; print(flush=True); sys.stdin.readline();"
        f"database.connect({database_url!r}).dispose()"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # it has imported all that it needs
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.communicate() and process.returncode for process in processes] == [0] * 4


def test_sqlite_forces_commits_to_the_disk_and_gives_space_back(tmp_path: Path) -> None:
    connected = database.connect(database.sqlite_url(tmp_path / "log.db"))
    with connected.connect() as connection:
        pragmas = [
            connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "auto_vacuum")
        ]
    connected.dispose()
    assert pragmas == ["wal", 2, 2]  # full, incremental: as SQLite numbers them


def test_an_error_quotes_nothing_that_was_to_be_written(engine: Engine) -> None:
    with engine.begin() as connection:
        predictions.drop(connection)
    with pytest.raises(SQLAlchemyError) as failed, engine.begin() as connection:
        connection.execute(insert(predictions), PREDICTION)
    assert "INSERT INTO predictions" in str(failed.value)
    assert "1e-30" not in str(failed.value)


def test_a_database_that_is_not_there_is_refused_without_its_password() -> None:
    with pytest.raises(DatabaseUnusable) as refused:
        database.connect(f"postgresql+psycopg://me:s3cret@127.0.0.1:{free_port()}/nowhere")
    assert "127.0.0.1" in str(refused.value)
    assert "s3cret" not in str(refused.value) + str(refused.value.facts)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me@127.0.0.1:{port}/nowhere?password=s3cret",
        "postgresql+psycopg://me:s3cret@pw@127.0.0.1:{port}/nowhere",
        "postgresql+psycopg://me:s3cret@127.0.0.1:port/nowhere",
        "s3cret",
    ],
)
def test_a_url_that_is_odd_is_refused_without_its_password(url: str) -> None:
    for opening in (database.connect, lambda url: database.reading(url).__enter__()):
        with pytest.raises(DatabaseUnusable) as refused:
            opening(url.format(port=free_port()))
        assert "s3cret" not in str(refused.value) + str(refused.value.facts)


def test_a_sqlite_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    connected = database.connect(database.sqlite_url(tmp_path / "log.db"))
    with connected.begin() as connection:
        connection.execute(insert(predictions), PREDICTION)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    connected.dispose()


@pytest.mark.parametrize("replacement", [None, "another.db"])
def test_a_sqlite_file_that_is_removed_or_replaced_is_not_written_any_more(
    tmp_path: Path, replacement: str | None
) -> None:
    path = tmp_path / "log.db"
    connected = database.connect(database.sqlite_url(path))
    with connected.begin() as connection:
        connection.execute(insert(predictions), PREDICTION)
    for file in list(tmp_path.iterdir()):  # with its write-ahead log
        file.rename(file.with_name(f"moved-{file.name}"))
    if replacement:
        database.connect(database.sqlite_url(tmp_path / replacement)).dispose()
        (tmp_path / replacement).rename(path)
    with connected.begin() as connection:
        connection.execute(insert(predictions), {**PREDICTION, "request_id": "after"})
    with database.reading(database.sqlite_url(path)) as connection:
        assert list(connection.scalars(select(predictions.c.request_id))) == ["after"]
    connected.dispose()


def test_statements_and_locks_of_postgresql_are_given_up(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.2)
    url = postgres.create_database()
    connected, other = database.connect(url, limit_s=0.1), database.connect(url)
    with pytest.raises(SQLAlchemyError, match="statement timeout"), connected.connect() as connection:
        connection.execute(text("SELECT pg_sleep(60)"))
    with other.begin() as holding:
        holding.execute(text("LOCK TABLE labels"))
        with pytest.raises(DatabaseUnusable, match="lock timeout"), database.reading(url) as connection:
            connection.execute(select(labels))
    connected.dispose()
    other.dispose()


def test_a_database_that_accepts_connections_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_POSTGRESQL", {"connect_timeout": 2})  # the least that libpq takes
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DatabaseUnusable, match="timeout"):
        database.connect(f"postgresql+psycopg://me@127.0.0.1:{silent.getsockname()[1]}/nowhere")


def test_a_log_that_is_not_there_is_not_made_by_those_who_read_it(tmp_path: Path) -> None:
    url = database.sqlite_url(tmp_path / "log.db")
    with pytest.raises(DatabaseUnusable, match="there is no prediction log yet"), database.reading(url):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["table", "garbage", "nothing"])
def test_a_file_that_is_no_log_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "it's 100% ?.db"
    if content == "table":
        with closing(sqlite3.connect(path)) as foreign:
            foreign.execute("CREATE TABLE predictions (id INTEGER)")
    else:
        path.write_bytes(b"garbage" * 1000 if content == "garbage" else b"")
    before = path.read_bytes()
    with pytest.raises(DatabaseUnusable) as refused, database.reading(database.sqlite_url(path)) as connection:
        connection.execute(select(predictions))
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
