"""A body is decoded to the same rows or the same refusal wherever that is done, and nothing else waits for it."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import pytest
import uvloop

from causeway import decoding, errors
from causeway.codec import Decoder
from causeway.contract import Array
from causeway.decoding import LEAST_BYTES, MOST_BYTES, BodyDecoder
from models.transactions import CONTRACT
from tests.conftest import PATIENCE_S
from tests.test_rest import BY_NAME, GOOD, REFUSED, ROW, features, named

DECODER = Decoder(CONTRACT)
MAX_ROWS = 10_000
BODIES = {
    id_: data.partition(b"\r\n\r\n")[2]
    for id_, (data, status, code, _) in ((param.id, param.values) for param in REFUSED)
    if status in (400, 413) and code not in ("header_invalid", "body_too_large")
}


def run(main: Callable[[BodyDecoder], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        bodies = BodyDecoder()
        async with asyncio.timeout(PATIENCE_S):
            try:
                await main(bodies)
            finally:  # uvloop does not close before they have ended
                for process in decoders():
                    process.kill()
                await gone()
                await asyncio.sleep(0.05)  # the loop hears of it some time later, and closes what it held
                gc.collect()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the server
        runner.run(bounded())


def decoders() -> list[psutil.Process]:
    """The processes beside this one that decode."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            command = process.cmdline()  # empty while it is dying
            if (not command or "causeway.decoding" in command) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


async def gone() -> None:
    while decoders():
        await asyncio.sleep(0.001)


async def some_turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def large(n_rows: int) -> list[bytes]:
    """A body in pieces, as the server hands them over."""
    body = b'{"features": [' + b",".join(json.dumps([i % 1000, *ROW[1:]]).encode() for i in range(n_rows)) + b"]}"
    return [body[i : i + 65_536] for i in range(0, len(body), 65_536)]


async def beside(bodies: BodyDecoder, *pieces: bytes, max_rows: int = 10**6) -> Array:
    return await bodies.beside(pieces, CONTRACT, max_rows)


async def running(bodies: BodyDecoder) -> psutil.Process:
    """The process beside, started and idle."""
    await beside(bodies, GOOD)
    (process,) = decoders()
    return process


def told(refusal: errors.Refusal) -> tuple[Any, ...]:
    return type(refusal), refusal.body("r"), refusal.status, refusal.retry_after_s


def test_every_refusal_is_the_same_beside_as_at_once() -> None:
    async def main(bodies: BodyDecoder) -> None:
        codes = set()
        for id_, body in BODIES.items():
            with pytest.raises(errors.Refusal) as at_once:
                DECODER(body, MAX_ROWS)
            with pytest.raises(errors.Refusal) as away:
                await beside(bodies, body, max_rows=MAX_ROWS)
            assert told(at_once.value) == told(away.value), id_
            codes.add(at_once.value.code)
        others = {"header_invalid", "command_invalid", "feedback_invalid"}
        assert codes >= {cls.code for cls in errors.BadRequest.__subclasses__()} - others | {"too_many_rows"}

    run(main)


def test_the_rows_are_the_same_to_the_bit_beside_as_at_once() -> None:
    async def main(bodies: BodyDecoder) -> None:
        for body in (GOOD, features(*[ROW] * 777), named(BY_NAME, BY_NAME), b" " * 100_000 + GOOD):
            pieces = [body[i : i + 1000] for i in range(0, len(body), 1000)]
            away = await beside(bodies, *pieces)
            at_once = bodies.at_once([body], DECODER, MAX_ROWS)
            assert at_once is not None
            assert (away.dtype, away.shape) == (at_once.dtype, at_once.shape)
            assert away.tobytes() == at_once.tobytes()

    run(main)


def test_several_bodies_at_once_each_get_their_own_rows() -> None:
    async def main(bodies: BodyDecoder) -> None:
        results = await asyncio.gather(
            *(beside(bodies, *pieces) for pieces in ([features([i, *ROW[1:]])] for i in range(30))),
            beside(bodies, b"[]"),
            return_exceptions=True,
        )
        *arrays, refused = results
        assert isinstance(refused, errors.BodyNotAnObject)
        assert [float(X[0, 0]) for X in arrays if isinstance(X, np.ndarray)] == list(range(30))
        assert len(decoders()) == 1

    run(main)


def test_other_coroutines_go_on_while_many_megabytes_are_decoded() -> None:
    async def main(bodies: BodyDecoder) -> None:
        await beside(bodies, GOOD)
        pieces = large(100_000)
        decoding = asyncio.create_task(beside(bodies, *pieces))
        turns = 0
        while not decoding.done():
            await asyncio.sleep(0)
            turns += 1
        X = await decoding
        assert len(X) == 100_000
        np.testing.assert_array_equal(X[:, 0], np.arange(100_000) % 1000)
        # To hand over and to take back are some hundreds of turns; the rest is waiting that others could use.
        assert turns > 10 * len(pieces)

    run(main)


def test_what_a_killed_process_had_begun_is_begun_again_by_another() -> None:
    async def main(bodies: BodyDecoder) -> None:
        process = await running(bodies)
        process.suspend()
        lost, waiting = (asyncio.create_task(beside(bodies, *large(n))) for n in (20_000, 5_000))
        await some_turns()
        assert not lost.done()
        process.kill()
        assert len(await lost) == 20_000
        assert len(await waiting) == 5_000
        assert len(decoders()) == 1

    run(main)


def test_nobody_misses_a_process_that_was_killed_while_idle() -> None:
    async def main(bodies: BodyDecoder) -> None:
        process = await running(bodies)
        process.kill()
        assert len(await beside(bodies, GOOD)) == 1

    run(main)


def test_who_is_cancelled_takes_the_process_along_and_the_next_gets_another() -> None:
    async def main(bodies: BodyDecoder) -> None:
        process = await running(bodies)
        process.suspend()
        leaver = asyncio.create_task(beside(bodies, *large(20_000)))
        await some_turns()
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        await gone()
        assert len(await beside(bodies, GOOD)) == 1

    run(main)


def test_who_is_cancelled_while_waiting_for_its_turn_disturbs_nobody() -> None:
    async def main(bodies: BodyDecoder) -> None:
        process = await running(bodies)
        process.suspend()
        first, second = (asyncio.create_task(beside(bodies, *large(n))) for n in (3_000, 2_000))
        await some_turns()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        process.resume()
        assert len(await first) == 3_000
        assert [found.pid for found in decoders()] == [process.pid]

    run(main)


def test_who_is_cancelled_while_the_process_starts_leaves_none_behind() -> None:
    async def main(bodies: BodyDecoder) -> None:
        for turns in (0, 1, 2, 3, 5, 10, 50):
            leaver = asyncio.create_task(beside(bodies, GOOD))
            for _ in range(turns):
                await asyncio.sleep(0)
            leaver.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaver
            await gone()
        assert len(await beside(bodies, GOOD)) == 1

    run(main)


def test_the_process_ends_when_it_has_had_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "IDLE_S", 0.05)

    async def main(bodies: BodyDecoder) -> None:
        await beside(bodies, GOOD)
        assert len(decoders()) == 1
        await gone()
        assert len(await beside(bodies, GOOD)) == 1

    run(main)


# What is decoded at once


def test_a_large_body_with_a_fault_is_not_searched_for_it_at_once() -> None:
    bodies = BodyDecoder()
    for body in (features(*[ROW] * 1000, [*ROW[:-1], "x"]), b'{"x": {"y": [' + b"1," * 20_000 + b"1]}, " + GOOD[1:]):
        assert len(body) > LEAST_BYTES
        assert bodies.at_once([body], DECODER, MAX_ROWS) is None


def test_a_small_body_with_a_fault_is_refused_at_once() -> None:
    with pytest.raises(errors.NotANumber):
        BodyDecoder().at_once([features([*ROW[:-1], "x"])], DECODER, MAX_ROWS)


def test_what_is_decoded_at_once_has_bounds_however_cheap_or_dear_bytes_have_seemed() -> None:
    padded, dense = BodyDecoder(), BodyDecoder()
    for _ in range(300):
        padded.at_once([GOOD.ljust(int(padded.at_once_bytes))], DECODER, MAX_ROWS)
        dense.at_once([features(*[[0] * 15] * 1000)], DECODER, MAX_ROWS)
    assert LEAST_BYTES <= dense.at_once_bytes < padded.at_once_bytes <= MOST_BYTES
