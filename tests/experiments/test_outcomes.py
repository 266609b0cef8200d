"""What is read from a real prediction log: units that count once, in the order in which they were known."""

from dataclasses import replace
from pathlib import Path

import pytest

from causeway.experiments import outcomes
from tests.experiments.logged import PERIOD, START, answered, labelled, log, write


def test_a_request_counts_as_the_mean_of_its_rows(tmp_path: Path) -> None:
    with log(tmp_path) as connection:
        answers = [answered("1", "champion", [0.2, 0.4], START), answered("2", "challenger", [0.9], START + 1)]
        write(connection, answers, [labelled("1", [0, 1], START)])
        scores = outcomes.scores(connection, PERIOD, START)
        labels = outcomes.labelled(connection, PERIOD, START)
    assert scores.y == pytest.approx([0.3, 0.9])
    assert scores.is_variant.tolist() == [False, True]
    assert (scores.requests, scores.rows, scores.units) == ((1, 1), (2, 1), (1, 1))
    assert (labels.y.tolist(), labels.rows, labels.total) == ([0.5], (2, 0), (1, 0))


def test_a_routing_key_counts_once_with_its_first_request(tmp_path: Path) -> None:
    with log(tmp_path) as connection:
        times = ((1, 0.1), (2, 0.7), (3, 0.9))
        answers = [answered(str(n), "champion", [score], START + n, key="card") for n, score in times]
        write(connection, [*answers, answered("card", "champion", [0.4], START + 4)])
        scores = outcomes.scores(connection, PERIOD, START)
    assert scores.y == pytest.approx([0.1, 0.4])  # a request without a key is a unit of its own
    assert (scores.requests, scores.units) == ((4, 0), (2, 0))


def test_labels_come_in_the_order_in_which_they_arrived(tmp_path: Path) -> None:
    with log(tmp_path) as connection:
        answers = [answered(str(n), "champion", [0.5], START + n, key=key) for n, key in enumerate("aab")]
        write(connection, answers, [labelled("0", [0], 30), labelled("1", [1], 20), labelled("2", [0], 10)])
        labels = outcomes.labelled(connection, PERIOD, START)
    assert labels.y.tolist() == [0, 1]  # b, then a by its request that was labelled first


def test_only_the_two_versions_in_their_roles_and_their_time_count(tmp_path: Path) -> None:
    with log(tmp_path) as connection:
        write(
            connection,
            [
                answered("1", "champion", [0.1], START),
                answered("2", "champion", [0.1], START - 1),
                answered("3", "champion", [0.1], START + 11),
                answered("4", "champion", [0.1], START, tag="fraud:other"),
                answered("5", "canary", [0.1], START, tag="fraud:b"),
            ],
        )
        assert outcomes.scores(connection, replace(PERIOD, ended=START + 10), START).requests == (1, 0)


def test_an_experiment_starts_when_all_workers_have_taken_up_the_change(tmp_path: Path) -> None:
    with log(tmp_path) as connection:
        write(connection, [answered("1", "champion", [0.1], START + 1)])
        assert outcomes.start(connection, PERIOD) is None
        write(
            connection, [answered("2", "challenger", [0.1], START + 5), answered("3", "challenger", [0.1], START - 5)]
        )
        assert outcomes.start(connection, PERIOD) == START + 5 + outcomes.SETTLING_S
