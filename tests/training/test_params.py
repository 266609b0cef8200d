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

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError("the rate is negative")


def test_defaults_stay_where_nothing_is_set() -> None:
    assert parse_params(Params, []) == Params()


def test_values_take_the_type_of_their_field() -> None:
    assert parse_params(Params, ["rate=0.5", "leaves=7", "exact=true"]) == Params(0.5, 7, True)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("depth=3", "--set depth=3: no such hyper-parameter; there are: rate, leaves, exact"),
        ("leafs=3", "--set leafs=3: no such hyper-parameter; did you mean leaves?"),
        ("=1", "--set =1: no such hyper-parameter; there are: rate, leaves, exact"),
        ("rate", "--set rate: write it as NAME=VALUE"),
        ("rate=fast", "--set rate=fast: the value must be a number"),
        ("leaves=1.5", "--set leaves=1.5: the value must be a whole number"),
        ("leaves=1_0", "--set leaves=1_0: the value must be a whole number"),
        ("leaves=", "--set leaves=: the value must be a whole number"),
        ("exact=perhaps", "--set exact=perhaps: the value must be true or false"),
        ("rate=-1", "--set rate=-1: the rate is negative"),
    ],
)
def test_what_the_family_does_not_have_is_refused_with_what_it_takes(assignment: str, words: str) -> None:
    with pytest.raises(InvalidParam) as refused:
        parse_params(Params, [assignment])
    assert str(refused.value) == words
