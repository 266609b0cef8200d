"""Predictions into the database, each once, whatever is killed meanwhile.

How far a segment was read is committed together with its rows. A transaction that starts from a position which is not
the database's any more fails as a whole: the primary key is there already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, delete, insert, select

from causeway.contract import Array
from causeway.monitoring.batch import Prediction
from causeway.monitoring.database import predictions as predictions_table
from causeway.monitoring.database import spool_positions

_FORGET = delete(spool_positions).where(
    spool_positions.c.segment == bindparam("of"), spool_positions.c.position == bindparam("at")
)


def positions(connection: Connection, segments: Sequence[str]) -> dict[str, int]:
    """How far each segment was read, in bytes; 0 where nothing is known of it."""
    query = select(spool_positions.c.segment, spool_positions.c.position).where(spool_positions.c.segment.in_(segments))
    known = {row.segment: row.position for row in connection.execute(query)}
    return {segment: known.get(segment, 0) for segment in segments}


def move(connection: Connection, before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Notes that the segments in `after` were read so far. Raises `IntegrityError` where `before` is not true."""
    connection.execute(_FORGET, [{"of": segment, "at": before[segment]} for segment in after])
    connection.execute(insert(spool_positions), [{"segment": name, "position": end} for name, end in after.items()])


def forget(connection: Connection, segments: Sequence[str]) -> None:
    """Drops the positions of segments that are no more."""
    connection.execute(delete(spool_positions).where(spool_positions.c.segment.in_(segments)))


def rows(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """The rows of the table `predictions`; numbers in the shortest digits that give the same float32."""
    return [
        {
            "request_id": request_id,
            "time": time,
            "model_version": tag,
            "variant": role,
            "routing_key": routing_key,
            "trace_id": trace_id,
            "n_rows": len(X),
            "features": _text(X),
            "predictions": _text(scores),
            "decode_ms": decode_s * 1000,
            "queue_ms": queue_s * 1000,
            "compute_ms": compute_s * 1000,
            "latency_ms": latency_s * 1000,
        }
        for (
            request_id,
            time,
            role,
            tag,
            X,
            scores,
            (latency_s, decode_s, queue_s, compute_s, _),
            routing_key,
            trace_id,
        ) in predictions
    ]


def write(connection: Connection, written: Sequence[Mapping[str, Any]]) -> None:
    """Inserts rows."""
    if written:
        connection.execute(insert(predictions_table), written)


def _text(values: Array) -> str:
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode()
