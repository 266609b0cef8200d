"""Hyper-parameters from the command line are typed, and named where they are wrong."""

from dataclasses import dataclass

import pytest

from causeway.errors import InvalidParam
from causeway.training.params import parse_params


@dataclass(frozen=True)
class Params:
    rate: float = 0.1
    leaves: int = 31
    exact: bool = False


def test_defaults_stay_where_nothing_is_set() -> None:
    assert parse_params(Params, []) == Params()


def test_values_take_the_type_of_their_field() -> None:
    assert parse_params(Params, ["rate=0.5", "leaves=7", "exact=true"]) == Params(0.5, 7, True)


@pytest.mark.parametrize("assignment", ["depth=3", "rate", "rate=fast", "leaves=1.5", "=1"])
def test_what_the_family_does_not_have_is_refused(assignment: str) -> None:
    with pytest.raises(InvalidParam):
        parse_params(Params, [assignment])
