"""Whenever a process dies, the state file is whole, the audit log explains it, and the next change goes through."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

from causeway import state_file
from causeway.errors import ChangeConflict, StateBroken, StateUnusable
from causeway.state import State
from causeway.state_file import Change, StateFile

# These processes do nothing but what is forked for, and never come back.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def change(before: State, after: State, who: str = "ann") -> Change:
    return Change(LATER, who, f"to revision {after.revision}", "a test", before, after)


def carry_out(file: StateFile, *steps: tuple[State, State]) -> None:
    """Changes as an operator makes them."""
    with file.changing("ann", "a test"):
        file.end_leases(LATER)
        for before, after in steps:
            file.write(change(before, after))


def forked(work: Callable[[], object]) -> int:
    """The pid of a process that does `work`; it ends with 0, or with 1 where that raises."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    return pid


def ended(pid: int) -> int:
    """Its exit code, once it has ended; minus the signal where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(line: int, work: Callable[[], object]) -> int:
    """How a process ends that does `work` and is killed at the line-th line that state_file.py executes."""
    lines = itertools.count(1)

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != state_file.__file__:
            return None
        if event == "line" and next(lines) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    def traced() -> None:
        sys.settrace(trace)
        work()

    return ended(forked(traced))


FIRST = State.of("fraud:a")
SECOND = FIRST.promote("fraud:b")
LEASED = SECOND.give("canary", "fraud:c", 5, NOON, "salt")

OVER = LEASED.without_expired(LATER)
THE_END = Change(LATER, "the lease", "stop canary fraud:c 5 %", "it ran out", LEASED, OVER)


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [
        ([], [change(FIRST, SECOND)]),
        ([(FIRST, SECOND)], [change(SECOND, SECOND.rollback())]),
        ([(FIRST, SECOND), (SECOND, LEASED)], [THE_END, change(OVER, OVER.promote("fraud:c"))]),
    ],
    ids=["the first", "another", "after a lease ran out"],
)
def test_a_change_that_is_killed_anywhere_was_made_or_was_not(
    earlier: list[tuple[State, State]], expected: list[Change], tmp_path: Path
) -> None:
    seen: list[list[Change]] = []
    for line in itertools.count(1):
        file = StateFile(tmp_path / str(line) / "state.json")
        for step in earlier:
            carry_out(file, step)
        explained = file.history()
        code = killed_at(line, lambda file=file: carry_out(file, (expected[-1].before, expected[-1].after)))
        state, history = file.read(), file.history()
        assert file.last_good() == state == (history[-1].after if history else None)
        assert history[: len(explained)] == explained
        seen.append(history[len(explained) :])
        carry_out(file)
        before = file.read() or FIRST
        after = before.promote("fraud:next")
        carry_out(file, (before, after))
        assert file.read() == after
        history += [THE_END] if state == LEASED else []
        assert file.history() == [*history, change(before, after)]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert [made for made, _ in itertools.groupby(seen)] == [expected[:n] for n in range(len(expected) + 1)]


def test_a_lease_whose_end_is_killed_anywhere_ends_all_the_same_and_once(tmp_path: Path) -> None:
    for line in itertools.count(1):
        file = StateFile(tmp_path / str(line) / "state.json")
        carry_out(file, (FIRST, SECOND), (SECOND, LEASED))
        code = killed_at(line, lambda file=file: file.expire(LATER))
        assert file.history()[-1].after == file.read()
        file.expire(LATER)
        assert file.read() == OVER
        assert file.history()[2:] == [THE_END]
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert line > 20


def test_a_last_line_that_is_cut_anywhere_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    carry_out(file, (FIRST, SECOND))
    log = tmp_path / "history.jsonl"
    before = log.read_bytes()
    line = msgspec.json.encode(change(SECOND, LEASED)) + b"\n"
    for length in range(len(line) + 1):  # with its end, it is whole and not carried out
        log.write_bytes(before + line[:length])
        assert file.history() == [change(FIRST, SECOND)]
        if length % 20 == 0 or length >= len(line) - 2:
            carry_out(file, (SECOND, LEASED))
            assert file.history() == [change(FIRST, SECOND), change(SECOND, LEASED)]
            file.path.write_bytes(SECOND.to_json())


@contextmanager
def disk_full_after(n_bytes: int) -> Iterator[None]:
    """No file of this process grows beyond `n_bytes`; a write says so as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_change_that_the_disk_does_not_take_is_refused_and_leaves_the_state_as_it_was(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    carry_out(file, (FIRST, SECOND))
    n_bytes = (tmp_path / "history.jsonl").stat().st_size + len(msgspec.json.encode(change(SECOND, LEASED)))
    for limit in range(0, n_bytes + 1, 15):
        with (
            disk_full_after(limit),
            pytest.raises(StateUnusable, match=r"state.json cannot be changed: File too large"),
        ):
            carry_out(file, (SECOND, LEASED))
        assert file.read() == SECOND
        assert file.history() == [change(FIRST, SECOND)]
    carry_out(file, (SECOND, LEASED))
    assert file.history() == [change(FIRST, SECOND), change(SECOND, LEASED)]


def test_a_lease_that_cannot_be_written_down_as_over_raises_nothing(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    carry_out(file, (FIRST, SECOND), (SECOND, LEASED))
    with disk_full_after(0):
        file.expire(LATER)
    assert file.read() == LEASED


@contextmanager
def operator_at_work(file: StateFile, who: str, action: str) -> Iterator[int]:
    """The pid of a process that holds the lock, until it is killed."""
    held, told = os.pipe()

    def hold() -> None:
        with file.changing(who, action):
            os.write(told, b"held")
            signal.pause()

    pid = forked(hold)
    os.close(told)
    assert os.read(held, 4) == b"held"
    os.close(held)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL


def test_of_two_operators_the_second_is_told_who_is_first_and_with_what(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "new" / "state.json")
    with operator_at_work(file, "bob", "promote fraud:b"):
        with pytest.raises(ChangeConflict, match="bob was first: promote fraud:b") as refused:
            carry_out(file, (FIRST, SECOND))
        assert refused.value.facts == {"who": "bob", "action": "promote fraud:b"}
        file.expire(LATER)
    carry_out(file, (FIRST, SECOND))
    assert file.read() == SECOND


def test_a_change_that_raises_frees_the_lock(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    with pytest.raises(KeyboardInterrupt), file.changing("ann", "promote fraud:b"):
        raise KeyboardInterrupt
    carry_out(file, (FIRST, SECOND))
    assert file.read() == SECOND


def at_once(*works: Callable[[], object]) -> list[int]:
    """How processes end that begin together."""
    waits, go = os.pipe()

    def waiting(work: Callable[[], object]) -> None:
        os.close(go)
        os.read(waits, 1)
        work()

    pids = [forked(lambda work=work: waiting(work)) for work in works]
    os.close(waits)
    os.close(go)
    return [ended(pid) for pid in pids]


def test_changes_of_many_operators_follow_one_another_and_none_is_lost(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    carry_out(file, (FIRST, SECOND))

    def operate(name: str) -> None:
        n_made = 0
        while n_made < 8:
            with suppress(ChangeConflict), file.changing(name, "a test"):
                before = file.read()
                assert before is not None
                file.write(change(before, before.promote(f"fraud:{name}-{n_made}"), name))
                n_made += 1

    names = ["ann", "bob", "eve"]
    assert at_once(*(lambda name=name: operate(name) for name in names)) == [0, 0, 0]
    changes = file.history()
    assert [made.revision for made in changes] == list(range(1, 1 + 1 + 3 * 8))
    assert all(one.after == other.before for one, other in itertools.pairwise(changes))
    assert {made.who for made in changes} == {*names}
    assert changes[-1].after == file.read()


def test_whoever_sees_a_lease_run_out_it_is_written_down_once_and_why(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    carry_out(file, (FIRST, SECOND), (SECOND, LEASED))
    file.expire(NOON - timedelta(seconds=1))
    assert file.read() == LEASED
    assert at_once(*[lambda: file.expire(LATER)] * 6) == [0] * 6
    assert file.read() == OVER
    assert file.history()[2:] == [THE_END]


def test_without_a_file_there_is_no_state_no_history_and_nothing_to_end(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "none" / "state.json")
    file.expire(LATER)
    assert (file.read(), file.mark(), file.last_good(), file.history()) == (None, None, None, [])


@pytest.mark.parametrize("folder", ["a file", "a file/below", "/proc", "/proc/below"])
def test_where_nothing_can_be_written_a_change_is_refused_and_an_end_passes_over(folder: str, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    file = StateFile(tmp_path / folder / "state.json")
    with pytest.raises(StateUnusable, match=r"state.json cannot be changed: \w+"):
        carry_out(file, (FIRST, SECOND))
    file.expire(LATER)
    assert file.mark() is None


def test_a_file_that_cannot_be_read_is_broken(tmp_path: Path) -> None:
    with pytest.raises(StateBroken, match="it cannot be read: it is no file"):
        StateFile(tmp_path).read()


def test_a_config_map_that_kubernetes_swaps_by_a_link_is_seen_and_read(tmp_path: Path) -> None:
    for number, state in enumerate((FIRST, SECOND)):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "state.json").write_bytes(state.to_json())
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "state.json").symlink_to("..data/state.json")
    file = StateFile(tmp_path / "state.json")
    before = file.mark()
    assert (file.mark(), file.read()) == (before, FIRST)
    (tmp_path / "..data_tmp").symlink_to("..1")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert file.mark() != before
    assert file.read() == SECOND


def test_each_change_of_the_file_is_marked(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    marks = [file.mark()]
    state = FIRST
    for number in range(20):
        after = state.promote(f"fraud:v{number % 2}")
        carry_out(file, (state, after))
        state = after
        marks.append(file.mark())
    assert all(one != other for one, other in itertools.pairwise(marks))


@pytest.mark.parametrize("broken", [b"", b"{", b'{"roles": {}}', b"\xff"])
def test_where_the_file_is_broken_the_audit_log_knows_what_was_in_force(broken: bytes, tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    carry_out(file, (FIRST, SECOND), (SECOND, LEASED))
    file.path.write_bytes(broken)
    with pytest.raises(StateBroken):
        file.read()
    assert file.last_good() == LEASED
    carry_out(file, (LEASED, LEASED.stop("canary")))
    assert file.read() == LEASED.stop("canary")


def test_a_state_written_by_hand_takes_nothing_from_the_audit_log(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    carry_out(file, (FIRST, SECOND), (SECOND, SECOND.rollback()))
    by_hand = State.of("fraud:x")
    file.path.write_bytes(by_hand.to_json())
    assert [made.revision for made in file.history()] == [1, 2]
    carry_out(file, (by_hand, by_hand.promote("fraud:y")))
    assert [made.revision for made in file.history()] == [1, 2, 1]


@pytest.mark.parametrize("broken", [b"", b"{}", b"nonsense", b"\xff", b'{"more": ' * 100_000, b'{"time": "\xff"}'])
def test_a_broken_line_in_the_middle_of_the_audit_log_is_named(broken: bytes, tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state.json")
    carry_out(file, (FIRST, SECOND), (SECOND, LEASED))
    log = tmp_path / "history.jsonl"
    first, *rest = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([first, broken, *rest]))
    with pytest.raises(StateBroken, match=r"line 2 of history.jsonl: \S+"):
        file.history()
    file.expire(LATER)
    assert file.read() == OVER
