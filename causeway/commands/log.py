"""`causeway log`: the prediction log, to read or to train on."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from sqlalchemy import Column, Connection, select

from causeway import operations, store
from causeway.console import Duration
from causeway.contract import Contract
from causeway.errors import CausewayError
from causeway.monitoring import place
from causeway.monitoring.database import predictions, reading
from causeway.monitoring.reading import Part, Reading, Selection
from causeway.operations import Operations
from causeway.settings import Settings

HOUR_S = 3600.0
File = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.command()
@click.option("--since", type=Duration(), default=None, help="How far back; 1h, but of one request as far as it goes.")
@click.option("--until", type=Duration(), default=None, help="Up to how long ago; by default up to now.")
@click.option("--version", "tag", default=None, help="Of one model tag; name:latest is the newest.")
@click.option("--request-id", default=None, help="Of one request.")
@click.option("--labelled", "is_labelled", is_flag=True, help="Only rows with a label, as training needs.")
@click.option("--limit", type=click.IntRange(1), default=None, help="Only the newest so many rows.")
@click.option("--parquet", type=File, default=None, help="Into a Parquet file, for training.")
@click.option("--csv", "csv_file", type=File, default=None, help="Into a CSV file.")
@click.pass_obj
def log(
    deployment: Operations,
    since: float | None,
    until: float | None,
    tag: str | None,
    request_id: str | None,
    is_labelled: bool,
    limit: int | None,
    parquet: Path | None,
    csv_file: Path | None,
) -> None:
    """What was predicted, and what became of it.

    A row for each row that was scored; without a file, a line of JSON each. Predictions get here within some seconds.
    Labels are those of POST /feedback. To train on what was labelled:

    \b
    causeway log --since 30d --labelled --parquet labelled.parquet
    python train_and_save.py FAMILY --data labelled.parquet --label label --time time --entity routing_key
    """
    if parquet is not None and csv_file is not None:
        raise click.UsageError("Give one of --parquet and --csv.")
    now = time.time()
    if since is None:
        since = HOUR_S if request_id is None else now
    if until is not None and until >= since:
        raise click.UsageError("--until must be shorter ago than --since.")
    if tag is not None and tag.endswith(":latest"):
        tag = operations.found(tag)
    selection = Selection(now - since, now - (until or 0), tag, is_labelled, limit, request_id)
    with reading(place.where(Settings.from_env(), deployment.file.folder).database_url) as connection:
        _check_is_there(connection, predictions.c.model_version, tag)
        _check_is_there(connection, predictions.c.request_id, request_id)
        rows = Reading(connection, selection, _contract)
        if parquet is not None:
            _say(_write_parquet(rows, parquet), parquet)
        elif csv_file is not None:
            _say(_write_csv(rows, csv_file), csv_file)
        else:
            for part in rows:
                sys.stdout.buffer.write(msgspec.json.Encoder().encode_lines(_rows(part)))


def _check_is_there(connection: Connection, column: Column[Any], value: str | None) -> None:
    """Raises `CausewayError` where the log has nothing at all with this value."""
    if value is not None and connection.execute(select(column).where(column == value).limit(1)).first() is None:
        raise CausewayError(f"The prediction log has nothing of {value}")


def _contract(tag: str) -> Contract | None:
    """The contract of a version, None where the store does not have it any more."""
    try:
        return Contract.from_json(store.find(tag).read("contract.json"))
    except (CausewayError, msgspec.DecodeError):
        return None


def _rows(part: Part) -> list[dict[str, Any]]:
    return [dict(zip(part, values, strict=True)) for values in zip(*part.values(), strict=True)]


def _say(n_rows: int, path: Path) -> None:
    click.echo(f"{n_rows} rows are in {path}")


def _write_csv(reading: Reading, path: Path) -> int:
    """The number of rows; times in ISO 8601, and nothing for what is missing."""
    n_rows = 0
    with _replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(reading.columns)
        for part in reading:
            for row in zip(*part.values(), strict=True):
                writer.writerow(row)
                n_rows += 1
    return n_rows


def _write_parquet(reading: Reading, path: Path) -> int:
    """The number of rows; a row group for each part. Raises `CausewayError` where pyarrow is not installed."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as exc:
        missing = "A Parquet file needs pyarrow, which is not installed here: use --csv, or pip install pyarrow"
        raise CausewayError(missing) from exc
    own = reading.own
    types = {
        **dict.fromkeys(reading.columns, pa.string()),
        **dict.fromkeys((*reading.features, *reading.scores), pa.float32()),  # as the model had and gave them
        **{own[name]: pa.float64() for name in ("label", "decode_ms", "queue_ms", "compute_ms", "latency_ms")},
        own["row"]: pa.int32(),
        own["time"]: pa.timestamp("us", tz="UTC"),
    }
    schema = pa.schema([(name, types[name]) for name in reading.columns])
    n_rows = 0
    with _replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for part in reading:
            table = pa.table(dict(part), schema=schema)
            writer.write_table(table)
            n_rows += len(table)
    return n_rows


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path`, which takes its place once it is whole. Raises `CausewayError` where that is impossible."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.rename(path)
    except OSError as exc:
        raise CausewayError(f"{path} cannot be written: {exc.strerror}") from exc
    finally:
        temporary.unlink(missing_ok=True)
