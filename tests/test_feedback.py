"""Labels: what is taken, what the answer says, and that nothing is acknowledged before it is on the disk."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select, text

from causeway import errors, feedback
from causeway.asgi import Answer, Message, Request
from causeway.contract import Output
from causeway.feedback import Entry, Feedback, Result
from causeway.monitoring import database, database_thread
from causeway.monitoring.database import labels, predictions
from load_tests.machine import free_port
from tests.conftest import PATIENCE_S, ROOT, answers, wait_until
from tests.feedback_app import Counts
from tests.monitoring.test_database import PREDICTION
from tests.postgres import Postgres

OUTPUT = Output("p")


ROWS = 10_000


def entry(name: str, *given: float) -> Entry:
    """As it waits: its labels as the database has them."""
    return Entry(name, json.dumps(given, separators=(",", ":")), len(given))


def body(*entries: tuple[str, Sequence[object]]) -> bytes:
    given = {"feedback": [{"request_id": name, "labels": labelled} for name, labelled in entries]}
    return json.dumps(given, separators=(",", ":")).encode()


# What is taken


def test_one_entry_or_many_are_taken() -> None:
    one = feedback.decode(b'{"request_id": "a", "labels": [0, 1]}', OUTPUT, ROWS)
    many = feedback.decode(body(("a", [0, 1]), ("b", [1.0])), OUTPUT, ROWS)
    assert list(one) == [entry("a", 0.0, 1.0)]
    assert list(many) == [entry("a", 0.0, 1.0), entry("b", 1.0)]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"request_id": "\xff"}', b'{"labels": [NaN]}'])
def test_what_is_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(errors.BodyNotJson):
        feedback.decode(content, OUTPUT, ROWS)


@pytest.mark.parametrize(
    ("content", "entry", "says"),
    [
        (b"[]", None, "Expected `object`"),
        (b"{}", None, '"request_id" and "labels"'),
        (b'{"request_id": "a"}', None, '"request_id" and "labels"'),
        (b'{"request_id": "a", "labels": [1], "feedback": []}', None, "feedback"),
        (b'{"feedback": []}', None, "feedback: Expected `array` of length >= 1"),
        (b'{"feedback": [{"request_id": "a", "labels": [1], "s3cret": 1}]}', 0, "Only request_id and labels"),
        (b'{"s3cret": 1}', None, "Only request_id and labels"),
        (b'{"request_id": "a", "labels": 1}', None, "labels: Expected `array`"),
        (body(("a", [0]), ("b", [])), 1, "labels: Expected `array` of length >= 1"),
        (body(("a", [0]), ("b", ["s3cret"])), 1, "labels[0]: Expected `float`, got `str`"),
        (body(("a", [0]), ("b", [0, None])), 1, "labels[1]: Expected `float`, got `null`"),
        (body(("a", [True])), 0, "got `bool`"),
        (b'{"request_id": "a", "labels": [1e999]}', None, "labels[0]: Number out of range"),
        (body(("a", [0]), ("b", [1.5])), 1, "must be 0 or 1"),
        (body(("a", [0, 0.5])), 0, "must be 0 or 1"),
        (body(("a", [0, -1])), 0, "must be 0 or 1"),
        (body(("a", [0]), ("b", [0] * (ROWS + 1))), 1, "10001 labels, but a request has at most 10000 rows"),
        (body(("", [0])), 0, "request_id: Expected `str`"),
        (body(("s3cret two", [0])), 0, "request_id: Expected `str`"),
        (body(("s3cret\n", [0])), 0, "request_id: Expected `str`"),
        (body(("s" * 129, [0])), 0, "request_id: Expected `str`"),
        (body(*[("a", [0])] * (feedback.MAX_ENTRIES + 1)), None, "length <= 10000"),
    ],
)
def test_a_body_that_means_nothing_is_refused_with_the_entry_at_fault(
    content: bytes, entry: int | None, says: str
) -> None:
    with pytest.raises(errors.FeedbackInvalid) as refused:
        feedback.decode(content, OUTPUT, ROWS)
    assert refused.value.facts.get("entry") == entry
    assert says in refused.value.message
    assert "s3cret" not in str(refused.value.body("id"))


@pytest.mark.parametrize(
    ("output", "taken", "refused", "says"),
    [
        (Output("kind", width=3), 2, 3, "whole numbers from 0 to 2"),
        (Output("kind", width=3), 0, 0.5, "whole numbers from 0 to 2"),
        (Output("kind", width=2), 1, 0.5, "0 or 1"),
        (Output("degrees", minimum=-5, maximum=5), -4.5, 5.5, "from -5 to 5"),
    ],
)
def test_labels_are_of_the_kind_of_the_output(output: Output, taken: float, refused: float, says: str) -> None:
    assert feedback.decode(body(("a", [taken])), output, ROWS)[0].labels == f"[{float(taken)}]"
    with pytest.raises(errors.FeedbackInvalid, match=f"labels must be {says}"):
        feedback.decode(body(("a", [refused])), output, ROWS)


def test_minus_zero_is_zero() -> None:
    assert feedback.decode(body(("a", [-0.0, 0])), OUTPUT, ROWS) == [entry("a", 0.0, 0.0)]


# What is stored


@asynccontextmanager
async def feeding(url: str, counts: Counts | None = None, max_body_bytes: int = 1000) -> AsyncIterator[Feedback]:
    labels_in = Feedback(url, metrics=counts or Counts(), output=lambda: OUTPUT, max_body_bytes=max_body_bytes)
    try:
        yield labels_in
    finally:
        labels_in.close()


def store(url: str, *batches: Sequence[Entry], counts: Counts | None = None) -> list[Any]:
    """What storing each batch returns or raises, one after another."""

    async def run() -> list[Any]:
        async with feeding(url, counts) as labels_in:
            return [(await asyncio.gather(labels_in.store(batch), return_exceptions=True))[0] for batch in batches]

    return asyncio.run(run())


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    connected = database.connect(database_url)
    yield connected
    connected.dispose()


def log(engine: Engine, *predicted: tuple[str, int]) -> None:
    """Puts predictions into the log: ids with their numbers of rows."""
    rows = [{**PREDICTION, "request_id": name, "n_rows": n_rows} for name, n_rows in predicted]
    with engine.begin() as connection:
        connection.execute(insert(predictions), rows)


def stored(engine: Engine) -> dict[str, list[float]]:
    with engine.connect() as connection:
        return {row.request_id: json.loads(row.labels) for row in connection.execute(select(labels))}


def test_the_answer_tells_new_from_repeated_from_replaced_from_unknown(engine: Engine, database_url: str) -> None:
    log(engine, ("a", 2), ("b", 1))
    counts = Counts()
    first, second = store(
        database_url,
        [entry("a", 0.0, 1.0), entry("b", 0.0), entry("late", 1.0)],
        [entry("a", 0.0, 1.0), entry("b", 1.0), entry("late", 1.0), entry("other", 0.0)],
        counts=counts,
    )
    assert first == Result(accepted=3, repeated=[], replaced=[], unknown=["late"])
    assert second == Result(accepted=4, repeated=["a", "late"], replaced=["b"], unknown=["late", "other"])
    assert stored(engine) == {"a": [0.0, 1.0], "b": [1.0], "late": [1.0], "other": [0.0]}
    assert counts.counts == {"stored": 4, "repeated": 2, "replaced": 1, "unknown": 3}


def test_the_same_labels_again_keep_the_time_at_which_they_first_came(engine: Engine, database_url: str) -> None:
    times = []
    for label in (0.0, 0.0, 1.0):
        store(database_url, [entry("a", label)])
        with engine.connect() as connection:
            times.append(connection.execute(select(labels.c.time)).scalar_one())
    assert times[0] == times[1] < times[2]


def test_one_entry_with_too_many_labels_keeps_its_whole_body_out(engine: Engine, database_url: str) -> None:
    log(engine, ("a", 2), ("b", 1))
    refused, accepted = store(database_url, [entry("b", 1.0), entry("a", 1.0)], [entry("a", 1.0, 0.0), entry("b", 0.0)])
    assert (refused.entry, refused.message) == (1, "Entry 1: 1 labels for 2 rows")
    assert accepted == Result(accepted=2, repeated=[], replaced=[], unknown=[])
    assert stored(engine) == {"a": [1.0, 0.0], "b": [0.0]}


def test_an_id_that_callers_used_twice_takes_labels_for_either_prediction(engine: Engine, database_url: str) -> None:
    log(engine, ("a", 2), ("a", 1))
    one, two, three = store(database_url, *([entry("a", *[0.0] * n)] for n in (1, 2, 3)))
    assert (one.accepted, two.replaced) == (1, ["a"])
    assert three.message == "Entry 0: 3 labels for 1 or 2 rows"


def test_more_ids_than_a_query_may_have_are_stored(engine: Engine, database_url: str) -> None:
    names = [f"{i:05}" for i in range(feedback.MAX_ENTRIES)]
    log(engine, *((name, 1) for name in names[::2]))
    (result,) = store(database_url, [entry(name, 0.0) for name in names])
    assert (result.accepted, result.unknown) == (len(names), names[1::2])
    assert len(stored(engine)) == len(names)


Batch = list[tuple[str, float]]


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0])), min_size=1), min_size=1))
def test_labels_that_share_a_commit_are_as_if_they_came_one_after_another(batches: list[Batch]) -> None:
    async def together() -> list[Result]:
        async with feeding("sqlite://") as labels_in:
            return await asyncio.gather(
                *(labels_in.store([entry(name, label) for name, label in batch]) for batch in batches)
            )

    now: dict[str, float] = {}
    for batch, result in zip(batches, asyncio.run(together()), strict=True):
        told: dict[bool, list[str]] = {True: [], False: []}
        for name, label in batch:
            if name in now:
                told[now[name] == label].append(name)
            now[name] = label
        assert (result.repeated, result.replaced) == (told[True], told[False])


# What happens meanwhile, and when it does not work


@pytest.fixture
def hold(engine: Engine) -> Callable[[], AbstractContextManager[None]]:
    """Keeps everybody from writing labels."""

    @contextmanager
    def holding() -> Iterator[None]:
        with engine.begin() as connection:
            lock = "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else "LOCK TABLE labels"
            connection.execute(text(lock))
            yield

    return holding


def test_labels_that_come_during_a_commit_share_the_next_one(
    engine: Engine, database_url: str, hold: Callable[[], AbstractContextManager[None]]
) -> None:
    async def run() -> None:
        async with feeding(database_url) as labels_in, asyncio.TaskGroup() as tasks:
            with hold():
                tasks.create_task(labels_in.store([entry("first", 0.0)]))
                await ticks()
                for i in range(50):
                    tasks.create_task(labels_in.store([entry(f"{i}", 0.0)]))
                await ticks()

    asyncio.run(run())
    with engine.connect() as connection:
        times = Counter(connection.execute(select(labels.c.time)).scalars())
    assert sorted(times.values()) == [1, 50]


async def ticks() -> None:
    """Lets everything run that does not wait for anything."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_event_loop_goes_on_while_the_database_is_held_and_the_deadline_is_kept(
    engine: Engine, database_url: str, hold: Callable[[], AbstractContextManager[None]]
) -> None:
    async def run() -> None:
        async with feeding(database_url) as labels_in:
            with hold():
                with pytest.raises(errors.DeadlineExceeded):
                    await labels_in.answer(request(body(("a", [0]))), 50)
                with pytest.raises(errors.DeadlineExceeded):
                    await labels_in.answer(request(body(("b", [0]))), 50)
            await labels_in.store([entry("c", 0.0)])

    asyncio.run(run())
    assert stored(engine) == {"a": [0.0], "c": [0.0]}  # a was under way; b had not been begun


def request(content: bytes, is_leaving: asyncio.Event | None = None) -> Request:
    """A request whose client hangs up once it `is_leaving`."""
    messages: list[Message] = [{"type": "http.request", "body": content}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await (is_leaving or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "headers": [(b"content-length", b"%d" % len(content))]}, receive)


def test_an_answer_has_the_result_and_the_id_of_the_request(database_url: str) -> None:
    async def run() -> Answer:
        async with feeding(database_url) as labels_in:
            return await labels_in.answer(asked, PATIENCE_S * 1000)

    asked = request(b'{"request_id": "a", "labels": [1]}')
    answer = asyncio.run(run())
    told = {"accepted": 1, "repeated": [], "replaced": [], "unknown": ["a"], "request_id": asked.id}
    assert (answer.status, json.loads(answer.body)) == (200, told)


def test_a_body_that_is_too_large_is_refused(database_url: str) -> None:
    async def run() -> None:
        async with feeding(database_url) as labels_in:
            await labels_in.answer(request(b" " * 1001), PATIENCE_S * 1000)

    with pytest.raises(errors.BodyTooLarge):
        asyncio.run(run())


FULL_BODY = body(*[(f"{i}", [0] * 9_000) for i in range(25)])
FULL_BODIES = 9
"""So many of them may wait."""


def test_more_than_may_wait_are_refused_and_those_that_wait_are_stored(
    engine: Engine, database_url: str, hold: Callable[[], AbstractContextManager[None]]
) -> None:
    async def run() -> None:
        async with feeding(database_url) as labels_in, asyncio.TaskGroup() as tasks:
            full = feedback.decode(FULL_BODY, OUTPUT, ROWS)
            with hold():
                tasks.create_task(labels_in.store([entry("first", 0.0)]))
                await ticks()
                for _ in range(FULL_BODIES):
                    tasks.create_task(labels_in.store(full))
                await ticks()
                with pytest.raises(errors.DatabaseUnreachable) as refused:
                    await labels_in.store(full)
                assert refused.value.retry_after_s == feedback.RETRY_S

    asyncio.run(run())
    assert len(stored(engine)) == 26


def test_those_whose_callers_wait_no_more_make_room_at_once(
    engine: Engine, database_url: str, hold: Callable[[], AbstractContextManager[None]]
) -> None:
    async def run() -> None:
        is_leaving = asyncio.Event()
        async with feeding(database_url, max_body_bytes=10**6) as labels_in, asyncio.TaskGroup() as tasks:
            with hold():
                tasks.create_task(labels_in.store([entry("first", 0.0)]))
                await ticks()
                late = [labels_in.answer(request(FULL_BODY), 300) for _ in range(FULL_BODIES)]
                refusals = await asyncio.gather(*late, return_exceptions=True)
                assert {type(each) for each in refusals} == {errors.DeadlineExceeded}
                gone = [labels_in.answer(request(FULL_BODY, is_leaving), 1e6) for _ in range(FULL_BODIES)]
                leaving = asyncio.gather(*gone, return_exceptions=True)
                await ticks()
                is_leaving.set()
                assert {type(each) for each in await leaving} == {errors.ClientGone}
                tasks.create_task(labels_in.store([entry("last", 0.0)]))
                await ticks()

    asyncio.run(run())
    assert stored(engine) == {"first": [0.0], "last": [0.0]}


def test_what_waits_takes_little_more_memory_than_its_bytes() -> None:
    tracemalloc.start()
    try:
        kept = [feedback.decode(FULL_BODY, OUTPUT, ROWS) for _ in range(FULL_BODIES)]
        assert len(kept) == FULL_BODIES
        assert tracemalloc.get_traced_memory()[0] < 1.1 * feedback.MAX_WAITING_BYTES
        few = feedback.decode(body(*[(f"{i:032}", [0]) for i in range(feedback.MAX_ENTRIES // 2)]), OUTPUT, ROWS)
        before = tracemalloc.get_traced_memory()[0]
        del few
        freed = before - tracemalloc.get_traced_memory()[0]
        assert freed < 1.1 * feedback.ENTRY_BYTES * feedback.MAX_ENTRIES // 2
    finally:
        tracemalloc.stop()


def test_a_database_that_hangs_does_not_hold_up_the_end(
    engine: Engine, database_url: str, hold: Callable[[], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_thread, "END_S", 0.01)

    async def run() -> None:
        labels_in = Feedback(database_url, metrics=Counts(), output=lambda: OUTPUT, max_body_bytes=1000)
        with hold():
            storing = asyncio.create_task(labels_in.store([entry("a", 0.0)]))
            await ticks()
            labels_in.close()
            await ticks()
            assert not storing.done()
        await storing

    asyncio.run(run())
    assert stored(engine) == {"a": [0.0]}


def test_a_database_that_stays_held_fails_what_waits_for_it_and_nothing_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.1)
    url = database.sqlite_url(tmp_path / "log.db")
    engine = database.connect(url)

    async def run() -> None:
        async with feeding(url) as labels_in:
            with engine.begin() as connection:
                connection.execute(text("BEGIN IMMEDIATE"))
                with pytest.raises(errors.DatabaseUnreachable):
                    await labels_in.store([entry("a", 0.0)])
            await labels_in.store([entry("b", 0.0)])

    asyncio.run(run())
    assert stored(engine) == {"b": [0.0]}
    engine.dispose()


def test_labels_are_refused_while_postgresql_is_gone_and_taken_when_it_is_back(postgres: Postgres) -> None:
    url = postgres.create_database()

    async def run() -> None:
        async with feeding(url) as labels_in:
            for i, stop in enumerate((lambda: postgres.stop("immediate"), postgres.kill)):
                await labels_in.store([entry(f"before {i}", 0.0)])
                stop()
                try:
                    with pytest.raises(errors.DatabaseUnreachable):
                        await labels_in.store([entry(f"meanwhile {i}", 0.0)])
                finally:
                    postgres.start()
                await labels_in.store([entry(f"after {i}", 0.0)])

    asyncio.run(run())
    engine = database.connect(url)
    assert sorted(stored(engine)) == ["after 0", "after 1", "before 0", "before 1"]
    engine.dispose()


def test_a_database_that_is_not_there_at_first_is_found_later(tmp_path: Path) -> None:
    url = database.sqlite_url(tmp_path / "folder" / "log.db")
    (tmp_path / "folder").write_text("in the way")

    async def run() -> None:
        async with feeding(url) as labels_in:
            with pytest.raises(errors.DatabaseUnreachable) as refused:
                await labels_in.store([entry("a", 0.0)])
            assert isinstance(refused.value.__cause__, errors.DatabaseUnusable)
            (tmp_path / "folder").unlink()
            await labels_in.store([entry("a", 0.0)])

    asyncio.run(run())


def test_labels_are_in_the_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log.db"

    async def run() -> None:
        async with feeding(database.sqlite_url(path)) as labels_in:
            await labels_in.store([entry("a", 0.0)])
            path.unlink()
            await labels_in.store([entry("b", 0.0)])

    asyncio.run(run())
    engine = database.connect(database.sqlite_url(path))
    assert stored(engine) == {"b": [0.0]}
    engine.dispose()


# Kill -9

KILLS = 3
CALLERS = 4


@contextmanager
def served(url: str, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """POST /feedback, from when it answers."""
    port = free_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "tests.feedback_app:app", f"--port={port}", "--lifespan=off"],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": url},
            stdout=output,
            stderr=output,
        )
    address = f"http://127.0.0.1:{port}/feedback"
    try:
        wait_until(lambda: answers(address), "an answer")
        yield address, process
    finally:
        process.kill()
        process.wait()


def call(address: str, caller: str, acknowledged: dict[str, list[float]]) -> None:
    """Sends labels until nobody answers, and notes those that were acknowledged."""
    label = itertools.cycle((0.0, 1.0))
    with suppress(httpx.TransportError), httpx.Client(timeout=PATIENCE_S) as client:
        for i in itertools.count():
            given = {f"{caller}-{i}-{j}": [next(label)] for j in range(1 + i % 3)}
            if client.post(address, content=body(*given.items())).status_code == 200:
                acknowledged.update(given)


def test_no_label_that_was_acknowledged_is_lost_by_kill_9(database_url: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    acknowledged: dict[str, list[float]] = {}
    for kill in range(KILLS):
        with served(database_url, tmp_path / "log") as (address, process), ThreadPoolExecutor(CALLERS) as callers:
            before = len(acknowledged)
            for caller in range(CALLERS):
                callers.submit(call, address, f"{kill}-{caller}", acknowledged)
            wait_until(lambda before=before: len(acknowledged) > before, "an acknowledged label")  # type: ignore[misc]
            time.sleep(rng.uniform(0, 0.3))  # a moment at random
            process.send_signal(signal.SIGKILL)
    engine = database.connect(database_url)
    kept = stored(engine)
    engine.dispose()
    assert {name: kept.get(name) for name in acknowledged} == acknowledged
