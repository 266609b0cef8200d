"""Where bodies are decoded: small ones at once, large ones in a process of their own, so that the event loop goes on.

A thread would not do: decoding holds the interpreter's lock from the first byte to the last. The process is started
for the first large body and ends with this one, or when there was none for `IDLE_S`.

`python -m causeway.decoding` is that process: requests come in and answers go out as frames, a line of JSON with the
lengths of what follows.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from causeway import errors
from causeway.codec import Decoder, NeedsSecondReading
from causeway.contract import Array, Contract
from causeway.cost import Cost

LOOP_BUDGET_S = 0.004
"""A body that takes longer to decode does not do so on the event loop."""

LEAST_BYTES = 32 * 1024
"""What is smaller is decoded at once, whatever was measured: handing it over takes as long."""

MOST_BYTES = 1024 * 1024
"""What is larger is never decoded at once: bodies that cost little by their bytes say little of those that do not."""

TYPICAL_S_PER_BYTE = 10e-9
"""Where the cost of decoding starts to be learnt from."""

IDLE_S = 30.0
"""After so long without a large body the process is ended, and its memory given back."""

NICE = 10
"""By how much the process gives way, where it shares a core with the event loop."""

GONE = (ConnectionError, RuntimeError)
"""What talking to a process that has ended raises; RuntimeError is uvloop's."""


class BodyDecoder:
    """Decodes POST /predict bodies, on the event loop or beside it."""

    def __init__(self) -> None:
        self._cost = Cost(0.0, TYPICAL_S_PER_BYTE)
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self.at_once_bytes = self._limit()
        """The size up to which a body is decoded at once; learnt."""

    def at_once(self, pieces: Sequence[bytes], decoder: Decoder, max_rows: int) -> Array | None:
        """The rows of a body, decoded here and now; None where that takes too long, and `beside` is the place for it.

        Raises the `Refusal` that names the first fault.
        """
        n_bytes = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        if n_bytes > self.at_once_bytes:
            return None
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if n_bytes < LEAST_BYTES:
            return decoder(body, max_rows)
        started = time.perf_counter()
        try:
            X = decoder(body, max_rows, reads_twice=False)
        except NeedsSecondReading:
            return None
        self._cost.learn(n_bytes, time.perf_counter() - started)
        self.at_once_bytes = self._limit()
        return X

    async def beside(self, pieces: Sequence[bytes], contract: Contract, max_rows: int) -> Array:
        """The same in another process, one body at a time. Cancelled, it ends that process and its work."""
        async with self._turn:
            was_running = self._is_running
            try:
                try:
                    return await _ask(await self._started(), pieces, contract, max_rows)
                except GONE:
                    if not was_running:  # it died of this very body
                        raise
                    self._end()
                    return await _ask(await self._started(), pieces, contract, max_rows)
            except errors.Refusal:
                raise
            except BaseException:
                self._end()
                raise
            finally:
                self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._end)

    def _limit(self) -> float:
        return min(max(LEAST_BYTES, self._cost.size_within(LOOP_BUDGET_S)), MOST_BYTES)

    @property
    def _is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def _started(self) -> asyncio.subprocess.Process:
        if self._idle is not None:
            self._idle.cancel()
        if not self._is_running or self._process is None:
            path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                __name__,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process = None


async def _ask(
    process: asyncio.subprocess.Process, pieces: Sequence[bytes], contract: Contract, max_rows: int
) -> Array:
    assert process.stdin is not None
    assert process.stdout is not None
    described = contract.to_json()
    lengths = [max_rows, len(described), sum(map(len, pieces))]
    for piece in (json.dumps(lengths).encode() + b"\n", described, *pieces):
        process.stdin.write(piece)
        await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise ConnectionResetError("the decoding process ended")
    is_refusal, n_bytes = json.loads(line)
    data = await _read(process.stdout, n_bytes)
    if is_refusal:
        raise pickle.loads(data.data)  # noqa: S301 - from our own process
    return data.view(np.float32).reshape(-1, contract.width)


async def _read(stream: asyncio.StreamReader, n_bytes: int) -> NDArray[np.uint8]:
    """So many bytes, copied as they come: in one piece that would hold up the event loop."""
    data = np.empty(n_bytes, np.uint8)
    place = 0
    while place < n_bytes:
        piece = await stream.read(n_bytes - place)
        if not piece:
            raise ConnectionResetError("the decoding process ended")
        data[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
        place += len(piece)
    return data


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """The other process: decodes what comes in until there is no more."""
    decoder = lru_cache(4)(lambda described: Decoder(Contract.from_json(described)))
    while line := requests.readline():
        max_rows, *lengths = json.loads(line)
        described, body = (requests.read(length) for length in lengths)
        try:
            is_refusal, data = False, decoder(described)(body, max_rows).tobytes()
        except errors.Refusal as exc:
            is_refusal, data = True, pickle.dumps(exc)
        answers.write(json.dumps([is_refusal, len(data)]).encode() + b"\n")
        answers.write(data)
        answers.flush()


if __name__ == "__main__":
    os.nice(NICE)
    serve(sys.stdin.buffer, sys.stdout.buffer)
