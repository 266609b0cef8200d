"""The keeper: one process a server that brings predictions from the spool to the database, and watches the models.

`python -m causeway.monitoring.keeper --folder FOLDER` runs until its standard input ends (`keeper_process`), giving
way to everything else on the machine. What cannot be written waits in the spool. Where the keeper alone cannot keep up,
predictions are sampled (`sampling`).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prometheus_client import REGISTRY
from sqlalchemy import Engine
from sqlalchemy.exc import DataError, SQLAlchemyError

from causeway import logs
from causeway.errors import DatabaseUnusable
from causeway.monitoring import keeper_process, place, prediction_writer, retention, sampling
from causeway.monitoring.backlog import Backlog, Taken
from causeway.monitoring.database import THOROUGH_S, connect
from causeway.monitoring.drift_watch import DriftWatch
from causeway.monitoring.model_metrics import ModelMetrics
from causeway.monitoring.process import Contention
from causeway.monitoring.quality_watch import QualityWatch
from causeway.monitoring.references import References
from causeway.settings import Settings

NICE = 19

PACE_S = 0.5
"""How often the spool is looked at, while there is not more in it than one transaction takes."""

CONTENDED = 4.0
"""Waiting for a processor so many times as long as running says that others, requests that is, need them all."""

CONTENDED_SHARE = 0.004
"""Of one processor, what the keeper uses then: niceness alone leaves it 15 of 1 039 parts, 0.014."""

CONTENDED_PAUSE_S = 2.0
"""What it rests for that at most: less than `sampling.LATE_S`."""

ROWS = (64, 4096)
"""Rows in a transaction, about: at least and at most."""

ROUND_S = 1.0
"""How long one may take: with SQLite, labels wait for it, and a keeper that falls behind has to notice."""

STALLED_S = 3.0
"""A commit that took so long waited for the database, not for the processor: `ROUND_S` sees to that."""

BACK_OFF_S = (0.25, 5.0)
"""How long the database is left alone after it failed, the first time and at most."""

CHORES_S = 60.0
"""How often old predictions are deleted, and the quality is looked at."""

CHORES_SHARE = 0.05
"""Of the time, what that takes at most: otherwise it is done less often."""

OVERDUE_S = 600.0
"""How long it is put off while there is more to write."""

ADOPT_S = 10.0
"""How often the spools of servers that are no more are looked for."""

DRAIN_S = 2.0
"""How long the keeper goes on once it is to end."""

DRAIN_PACE_S = 0.05
"""How often it looks then whether the other workers have ended."""

_OWN_FILES = re.compile(rf"{re.escape(keeper_process.LOCK)}|\.?sampling|\.\d{{12,}}-\d+-[0-9a-f]{{16}}")
"""What else there is in a server's spool, beside its segments."""


class Keeper:
    """Of the server whose spool is `folder`."""

    def __init__(self, folder: Path, settings: Settings, metrics: ModelMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._url = place.at(settings, folder.parent).database_url
        self._engine: Engine | None = None
        self._own = Backlog(folder)
        self._adopted: list[Adopted] = []
        self._sampling = sampling.Sampling(time.monotonic())
        self._drift = DriftWatch(References(), metrics, n_rows=settings.drift_rows, seconds=settings.drift_s)
        self._quality = QualityWatch(metrics)
        self._rng = random.Random()  # noqa: S311 - a sample, not a secret
        self._limit = ROWS[0]
        self._over: list[str] = []
        self._failures = 0
        self._chores_at = self._adopts_at = 0.0
        self._contention = Contention()

    def run(self, is_ending: Callable[[float], bool]) -> None:
        """Works until `is_ending` of the seconds to wait says so; then for `DRAIN_S` at most.

        It ends before that once all is written and no worker is left that could write more.
        """
        sampling.tell(self._own.folder, self._sampling.factor)
        pause = self.round()
        while not is_ending(pause):
            pause = max(self.round(), rest_s(*self._contention.since_last()))
        ends = time.monotonic() + DRAIN_S
        while time.monotonic() < ends:
            is_written = self._own.is_written  # asked first: what is written after the answer is read all the same
            if self.round() > 0:
                if self._failures or not is_written:
                    break
                time.sleep(DRAIN_PACE_S)
        self.close()

    def close(self) -> None:
        """Lets go of the files and the database."""
        for backlog in self._backlogs:
            backlog.close()
        self._disconnect()

    def round(self) -> float:
        """Writes what one transaction takes; returns the seconds until the next, 0 where more is waiting."""
        try:
            pause = self._work()
        except Exception as exc:  # whatever it is, what waits is written once it is over
            pause = self._failed(exc)
        else:
            self._worked()
        self._metrics.backlog(self._own.n_bytes)
        self._metrics.flush()
        return pause

    def _work(self) -> float:
        if self._engine is None:
            self._engine = connect(self._url, limit_s=THOROUGH_S)
        is_more = self._take(self._engine, self._own, self._limit)
        if not is_more:
            self._adopt()
            for adopted in list(self._adopted):
                is_more |= self._finish(self._engine, adopted)
        if not is_more or time.monotonic() > self._chores_at + OVERDUE_S:
            self._chores(self._engine)
        return 0.0 if is_more else PACE_S

    def _take(self, engine: Engine, backlog: Backlog, limit: int) -> bool:
        """Writes what one transaction takes of a backlog; whether there may be more."""
        is_own = backlog is self._own
        started = time.monotonic()
        unknown = backlog.look()
        if unknown:
            with engine.connect() as connection:
                backlog.learn(prediction_writer.positions(connection, unknown))
        taken = backlog.take(limit, self._sampling.factor if is_own else 1, self._rng)
        if is_own:
            self._sample(time.time() - taken.oldest if taken.ends else 0.0)
        if taken.ends:
            wrote_at = time.monotonic()
            self._write(engine, backlog, taken)
            ended = time.monotonic()
            self._adapt(taken.weight, ended - started)
            if ended - wrote_at > STALLED_S:
                self._sampling.interrupted(ended)
        self._over += backlog.advance(taken.ends)
        return not taken.is_all

    def _write(self, engine: Engine, backlog: Backlog, taken: Taken) -> None:
        """Commits what was taken, as a whole."""
        try:
            self._commit(engine, backlog, taken)
        except DataError as exc:  # the database will never take it: it must not stay before all that comes after
            logs.get().error("predictions_refused", rows=taken.n_rows, reason=_reason(exc))
            taken.unreadable += taken.n_rows
            taken.predictions, taken.n_rows = [], 0
            self._commit(engine, backlog, taken)
        self._metrics.written(taken.n_rows)
        for reason, n_rows in (("sampled", taken.sampled), ("unreadable", taken.unreadable)):
            if n_rows:
                self._metrics.left_out(reason, n_rows)

    def _commit(self, engine: Engine, backlog: Backlog, taken: Taken) -> None:
        now = time.time()
        rows = prediction_writer.rows(taken.predictions)
        windows = self._drift.counted(backlog.folder.name, taken.predictions, taken.refused, now)
        with engine.begin() as connection:
            prediction_writer.move(connection, backlog.positions(), taken.ends)
            prediction_writer.forget(connection, self._over)
            prediction_writer.write(connection, rows)
            windows = self._drift.store(connection, windows)
        self._over = []
        self._drift.accept(windows)

    def _adapt(self, n_rows: int, took_s: float) -> None:
        """Makes transactions as large as they may be by how long the last took; twice as large as that at most."""
        least, most = ROWS
        self._limit = int(min(max(n_rows * ROUND_S / took_s, least), 2 * max(n_rows, least), most))

    def _sample(self, age_s: float) -> None:
        before = self._sampling.factor
        self._sampling.observe(age_s, self._own.n_bytes, time.monotonic())
        if self._sampling.factor != before:
            sampling.tell(self._own.folder, self._sampling.factor)
            logs.get().info("prediction_log_sampled", one_of=self._sampling.factor, age_s=round(age_s, 1))

    def _adopt(self) -> None:
        """Takes over the spools beside this server's that had a keeper and have none now."""
        if time.monotonic() < self._adopts_at:
            return
        self._adopts_at = time.monotonic() + ADOPT_S
        known = {adopted.backlog.folder for adopted in self._adopted} | {self._own.folder}
        for folder in place.servers(self._own.folder.parent):
            with suppress(OSError):  # somebody else's
                lock = None if folder in known else keeper_process.take_over(folder)
                if lock is not None:
                    self._adopted.append(Adopted(Backlog(folder), lock))

    def _finish(self, engine: Engine, adopted: Adopted) -> bool:
        """Works on the spool of another server, and lets go of it once nothing is left; whether there may be more."""
        is_more = self._take(engine, adopted.backlog, self._limit)
        if not is_more:
            self._adopted.remove(adopted)
            adopted.leave()
        return is_more

    def _chores(self, engine: Engine) -> None:
        started = time.monotonic()
        if started < self._chores_at:
            return
        gone = retention.prune(
            engine, keep_days=self._settings.keep_days, keep_bytes=self._settings.keep_bytes, now=time.time()
        )
        if gone:
            logs.get().info("predictions_forgotten", requests=gone)
        with engine.connect() as connection:
            self._quality.show(connection, time.time())
        ended = time.monotonic()
        self._chores_at = ended + max(CHORES_S, (ended - started) / CHORES_SHARE)

    def _failed(self, exc: Exception) -> float:
        """Notes that the database failed, or what else did, and returns how long it is left alone."""
        is_database = isinstance(exc, SQLAlchemyError | DatabaseUnusable)
        if not self._failures:
            logs.get().error("database_failed" if is_database else "keeper_failed", reason=_reason(exc))
        self._failures += 1
        if is_database:
            self._metrics.database_failed()
        self._sampling.interrupted(time.monotonic())
        self._disconnect()  # a SQLite file may be another one by now
        for backlog in self._backlogs:
            backlog.forget()  # nobody knows whether the commit came through
        first, most = BACK_OFF_S
        return min(first * 2.0 ** (self._failures - 1), most)

    @property
    def _backlogs(self) -> list[Backlog]:
        return [self._own, *(adopted.backlog for adopted in self._adopted)]

    def _disconnect(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _worked(self) -> None:
        if self._failures:
            logs.get().info("database_back", failures=self._failures)
            self._failures = 0


class Adopted:
    """The spool of a server that has no keeper, and the lock that makes this one its keeper."""

    def __init__(self, backlog: Backlog, lock: int) -> None:
        self.backlog = backlog
        self._lock = lock

    def leave(self) -> None:
        """Removes what the server left where all is written, but nothing of others, and lets go of it."""
        if self.backlog.is_empty:
            with suppress(OSError):  # something else is there
                for file in self.backlog.folder.iterdir():
                    if _OWN_FILES.fullmatch(file.name):
                        file.unlink()
                self.backlog.folder.rmdir()
        self.backlog.close()
        os.close(self._lock)


def rest_s(ran_s: float, waited_s: float) -> float:
    """How long a keeper that ran and waited for a processor so long leaves the processors to others, in seconds."""
    return min(ran_s / CONTENDED_SHARE, CONTENDED_PAUSE_S) if waited_s > CONTENDED * ran_s else 0.0


def _reason(exc: Exception) -> str:
    """What went wrong, in a line without what was to be written."""
    return (str(getattr(exc, "orig", None) or exc) or type(exc).__name__).partition("\n")[0]


def main() -> None:
    """Runs the keeper of a folder, unless it has one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the server's spool")
    parser.add_argument("--lock", type=int, help="descriptor of the lock, where the worker has taken it")
    arguments = parser.parse_args()
    settings = Settings.from_env()
    logs.configure(settings.log_format)
    if arguments.lock is None and keeper_process.take(arguments.folder) is None:
        sys.exit(f"{arguments.folder} has a keeper")
    for number in keeper_process.IGNORED:
        signal.signal(number, signal.SIG_IGN)
    keeper = Keeper(arguments.folder, settings, ModelMetrics(REGISTRY))
    os.setpriority(os.PRIO_PROCESS, 0, NICE)  # only now: until it is ready the spool grows
    keeper.run(_has_ended)


def _has_ended(seconds: float) -> bool:
    """Waits for so long, or until nobody is left at the other end of the standard input: whether that is so."""
    readable, _, _ = select.select([sys.stdin], [], [], seconds)
    return bool(readable)


if __name__ == "__main__":
    main()
