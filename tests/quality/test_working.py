"""What training left with a version is read back; a version without it has the default."""

import msgspec
import pytest

from causeway.quality.estimate import CalibrationMap
from causeway.quality.working import Working


def test_it_is_read_from_among_everything_else_that_was_evaluated() -> None:
    left = Working(0.25, CalibrationMap([0.0, 1.0], [[0.0, 0.5]], 0.3))
    evaluation = msgspec.json.encode({"model": {"rows": 10}, **msgspec.to_builtins(left), "exported": {}})
    assert Working.from_json(evaluation) == left
    assert left.threshold == 0.25


def test_a_version_that_was_saved_without_a_threshold_has_the_default() -> None:
    assert Working.from_json(b"{}") == Working(None, None)
    assert Working().threshold == 0.5


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        Working.from_json(b'{"threshold": "high"}')
