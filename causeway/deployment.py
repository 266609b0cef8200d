"""Which versions this worker serves: it follows the state file, and swaps without a pause or a lost request.

A thread looks at the file some times a second, loads what is new there beside the requests, and hands the whole of it
to the event loop, which swaps in one step. Where anything of it cannot be loaded, or the file says nothing that makes
sense, what was served goes on being served, and `problem` says why. Without a state file the version that the settings
name is champion.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from causeway import errors, logs, roll_call, shadow, state, store, variant
from causeway.contract import Array
from causeway.roll_call import Presence, Report
from causeway.routing import Shares
from causeway.settings import Settings
from causeway.shadow import Shadow
from causeway.state import Role, State
from causeway.state_file import StateFile
from causeway.tag import LATEST
from causeway.variant import Variant
from causeway.version import ModelVersion

POLL_S = 0.1
"""How often the state file is looked at: 10 us each time."""

RETRY_S = 5.0
"""How often what could not be loaded is tried again: a version may come into the store after the state names it."""

LISTED_S = 1.0
"""How often a worker sees to it that it is on the list of workers."""

RESTART_S = 30.0
"""A worker whose device is lost ends, but not before it is so old: the next one may lose it as well."""

END_S = 10.0
"""How long such a worker may take to end: what is left of it on the device may wait for ever."""

STOP_S = 1.0
"""How long a version that is being loaded is waited for at the end."""

VARIABLE = "_CAUSEWAY_CHAMPION"
"""How the version that `latest` meant when the server started gets to its workers; not a setting."""


class Observer(variant.Observer, shadow.Observer, Protocol):
    """What is told about all that a worker serves."""

    def deployed(
        self,
        revision: int,
        shares: Mapping[tuple[str, str], float],
        *,
        is_followed: bool,
        created: Mapping[str, float],
        engines: Mapping[str, tuple[str, str]],
    ) -> None:
        """The worker serves this revision: by role and tag the percent of the requests.

        `created` says by tag when the version was saved, in seconds since 1970, and `engines` by what and on which
        device it is run.
        """

    def ran_out_of_memory(self) -> None:
        """A device had no memory for a batch, which was halved; in any thread."""

    def device_lost(self) -> None:
        """A device computes no more for this worker."""


@dataclass(frozen=True)
class Served:
    """What answers requests at one time."""

    state: State
    variants: Mapping[Role, Variant]
    shares: Shares | None
    """None where the champion has them all."""
    shadow: Shadow | None

    @property
    def by_tag(self) -> dict[str, Variant]:
        """The variants by their versions."""
        return {variant.version.tag: variant for variant in self.variants.values()}


class Deployment:
    """The versions of one worker process. Until `start` succeeds, `champion` raises `NotReady` with the reason."""

    def __init__(self, settings: Settings, observer: Observer) -> None:
        self.file = StateFile(state_path(settings))
        self.problem: str | None = None
        """Why the state file is not followed; None where it is."""
        self._settings = settings
        self._observer = observer
        self._served: Served | None = None
        self._default = settings.model
        self._had_file = False
        """Whether there was ever a state file to follow."""
        self._reason = "it is being loaded"
        self._refused: State | None = None
        self._loss: errors.DeviceLost | None = None
        """Of the device that a version was to be loaded on."""
        self._replaced: list[Variant] = []
        """What their queues still have is being computed."""
        self._mark: object = None
        self._presence = Presence(self.file.folder / "workers")
        self._began = time.monotonic()
        self._is_ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, built_with: Sequence[str] = ()) -> None:
        """Loads what the state file says, or the version that the settings name; `settle` says which `latest` is.

        Where the file makes no sense, the last state of the audit log counts. A champion that fails is refused and
        logged, never served; without another role that fails the champion serves all the same.
        """
        self._mark = self.file.mark()
        self._default = os.environ.get(VARIABLE) or pinned(self._settings.model, built_with)
        try:
            self._served = self._start(self._first())
        except (errors.VersionRefused, errors.VersionNotFound) as exc:
            self._reason = exc.message
            logs.get().error("version_refused", model_version=exc.tag, reason=exc.message)
        except errors.DeviceLost as exc:
            self._loss, self._reason = exc, exc.message
            logs.get().error("device_lost", **exc.facts)
        except errors.StateBroken as exc:
            self._reason = f"{self.file.path.name} makes no sense: {exc.message}"
        else:
            self._tell()

    def follow(self) -> None:
        """From now on changes of the state file are followed, until `stop`. For the event loop, once it runs."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._follow, args=(loop,), name="deployment", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends following; what is served stays."""
        self._is_ending.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
        self._presence.leave()
        if self._served is not None and self._served.shadow is not None:
            self._served.shadow.stop()

    @property
    def is_ready(self) -> bool:
        """Whether a version answers."""
        return self._served is not None

    @property
    def served(self) -> Served:
        """What answers. Raises `NotReady` with the reason."""
        if self._served is None:
            raise errors.NotReady(self._reason)
        return self._served

    @property
    def champion(self) -> Variant:
        """The variant that answers where no other does. Raises `NotReady` with the reason."""
        return self.served.variants["champion"]

    def route(self, key: str, tag: str | None = None) -> Variant:
        """The variant for a request with this routing key, or the one of the version that it asks for.

        Raises `VersionNotLoaded`, or `NotReady`.
        """
        served = self._served or self.served
        if tag is not None:
            by_tag = served.by_tag
            if tag not in by_tag:
                raise errors.VersionNotLoaded(list(by_tag))
            return by_tag[tag]
        return served.variants["champion" if served.shares is None else served.shares.role(key)]

    def offer_shadow(self, scorer: Variant, X: Array, predictions: Array) -> None:
        """Hands rows (n_rows, n_features) that `scorer` answered to the shadow, where there is one for them."""
        running = self.served.shadow
        if running is not None and scorer.role == "champion":
            running.offer(X, predictions)

    @property
    def waiting_rows(self) -> int:
        """Rows that wait to be computed, of all variants."""
        return 0 if self._served is None else sum(v.batcher.waiting_rows for v in self._served.by_tag.values())

    def details(self) -> dict[str, Any]:
        """What is served and why nothing else is, for /health."""
        served = self.served
        roles = {role: msgspec.to_builtins(assignment) for role, assignment in served.state.roles.items()}
        engines = {role: variant.version.runtime.name for role, variant in served.variants.items()}
        told = {"revision": served.state.revision, "roles": roles, "engines": engines}
        return told if self.problem is None else {**told, "problem": self.problem}

    def _first(self) -> State:
        """What to serve at the start. Raises `StateBroken`, or `VersionNotFound` where there is no state either.

        Where the file makes no sense, or is gone, the other workers know best what was in force, then the audit log.
        """
        try:
            wanted = self.file.read()
            self._had_file = wanted is not None
            if wanted is None:
                if not self.file.history():
                    if self._settings.state_file:
                        logs.get().warning("no_state_file", path=str(self.file.path))
                    return State.of(store.find(self._default).tag)
                raise errors.StateBroken("it is gone")
        except errors.StateBroken as exc:
            self._trouble(f"{self.file.path.name} makes no sense: {exc.message}")
            self._had_file = True
            wanted = roll_call.serving(roll_call.call(self.file.folder / "workers")) or self.file.last_good()
            if wanted is None:
                raise
        return wanted.without_expired(state.now())

    def _wanted(self) -> State:
        """What to serve from now on. Raises `StateBroken`."""
        wanted = self.file.read()
        if wanted is None:
            if self._served is None:
                return self._first()
            if self._had_file:
                raise errors.StateBroken("it is gone")
            return self._served.state
        self._had_file = True
        return wanted.without_expired(state.now())

    def _start(self, wanted: State) -> Served:
        """All of it that can be loaded; the champion must."""
        loaded = {wanted.champion: self._load(wanted.champion, "champion")}
        for role, assignment in wanted.roles.items():
            try:
                loaded[assignment.tag] = loaded.get(assignment.tag) or self._load(assignment.tag, role)
            except (errors.VersionRefused, errors.VersionNotFound, errors.DeviceLost) as exc:
                self._refused = wanted
                self._trouble(exc.message)
        left = {role: assignment for role, assignment in wanted.roles.items() if assignment.tag in loaded}
        return self._assembled(msgspec.structs.replace(wanted, roles=left), loaded)

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        since_failure_s = since_listed_s = 0.0
        self._report()
        while not self._is_ending.wait(POLL_S):
            lost = self._lost()
            if lost is not None:
                self._end(lost, loop)
                return
            self._let_go()
            mark = self.file.mark()
            since_failure_s += POLL_S
            is_failing = self._served is None or self.problem is not None
            if mark == self._mark and not self._is_over and not (is_failing and since_failure_s >= RETRY_S):
                since_listed_s += POLL_S
                if since_listed_s >= LISTED_S:
                    since_listed_s = 0.0
                    if not self._presence.is_listed:
                        self._report()
                continue
            since_failure_s = 0.0
            try:
                if self._is_over:
                    self.file.expire(state.now())
                self._mark = self.file.mark()
                if self._adopt(self._wanted(), loop):
                    self.problem = self._refused = None
            except errors.StateBroken as exc:
                self._trouble(f"{self.file.path.name} makes no sense: {exc.message}")
            except Exception as exc:  # a fault of ours must not end the thread
                if not self._is_ending.is_set():
                    self._trouble("the worker could not follow it; its log has the cause", exc)
            if self._served is not None and self._is_over:  # a lease ends, whatever became of the file
                self._adopt(self._served.state.without_expired(state.now()), loop)
            self._report()

    def _lost(self) -> errors.DeviceLost | None:
        """The loss of a device that something runs on, or without which nothing could be loaded."""
        if self._served is None:
            return self._loss
        runtimes = [variant.version.runtime for variant in self._served.variants.values()]
        return next((errors.DeviceLost(each.device, each.lost) for each in runtimes if each.lost is not None), None)

    def _end(self, lost: errors.DeviceLost, loop: asyncio.AbstractEventLoop) -> None:
        """Answers nothing any more, and ends the process, for BentoML to start another: only that can help."""

        def unserve() -> None:
            self._served, self._reason = None, lost.message

        loop.call_soon_threadsafe(unserve)
        logs.get().error("worker_ends", **lost.facts)
        self._observer.device_lost()
        self._presence.leave()
        if not self._is_ending.wait(self._began + RESTART_S - time.monotonic()):
            signal.alarm(round(END_S))
            os.kill(os.getpid(), signal.SIGTERM)

    @property
    def _is_over(self) -> bool:
        """Whether a lease ran out since."""
        return self._served is not None and self._served.state.without_expired(state.now()) is not self._served.state

    def _adopt(self, wanted: State, loop: asyncio.AbstractEventLoop) -> bool:
        """Loads all of it that is new, and has the loop serve it; or says why not, and returns False."""
        before = self._served
        has = before.by_tag if before else {}
        try:
            loaded = {
                assignment.tag: has.get(assignment.tag) or self._load(assignment.tag, role)
                for role, assignment in wanted.roles.items()
            }
        except (errors.VersionRefused, errors.VersionNotFound, errors.DeviceLost) as exc:
            self._refused = wanted
            self._trouble(exc.message)
            self._loss = exc if isinstance(exc, errors.DeviceLost) else None
            if before is None:
                self._reason = exc.message
            return False
        if before and before.state == wanted:
            return True
        after = self._assembled(wanted, loaded)
        is_swapped = threading.Event()

        def swap() -> None:
            self._served = after
            is_swapped.set()

        loop.call_soon_threadsafe(swap)
        while not is_swapped.wait(POLL_S):
            if self._is_ending.is_set():
                return False
        left = [gone for tag, gone in has.items() if tag not in loaded]
        for gone in left:
            loop.call_soon_threadsafe(gone.batcher.close)
        self._replaced += left
        if before and before.shadow and before.shadow is not after.shadow:
            before.shadow.stop()
        self._tell()
        return True

    def _let_go(self) -> None:
        """Gives back what replaced versions had, once nothing waits for them any more."""
        done = [each for each in self._replaced if each.batcher.is_idle]
        if not done:
            return
        self._replaced = [each for each in self._replaced if each not in done]
        while done:
            version = done.pop().version
            try:
                version.runtime.close()
            except Exception as exc:  # of a device, which what is served will find lost, if it is
                logs.get().error("version_not_closed", model_version=version.tag, reason=str(exc))
        del version
        gc.collect()  # types that were made for a contract refer to themselves

    def _load(self, tag: str, role: Role) -> Variant:
        """The version in a role. Raises `VersionRefused`, `VersionNotFound` or `DeviceLost`."""
        version = ModelVersion.load(
            store.find(tag),
            threads=self._settings.threads,
            device=self._settings.device,
            out_of_memory=self._observer.ran_out_of_memory,
        )
        logs.get().info(
            "version_loaded",
            model_version=version.tag,
            role=role,
            fixed_us=round(version.cost.fixed_s * 1e6, 1),
            per_row_us=round(version.cost.per_unit_s * 1e6, 2),
            batch_difference=version.batch_difference,
            engine=version.runtime.name,
            device=version.runtime.device,
            engines_us={
                name: told if isinstance(told, str) else [round(seconds * 1e6, 1) for seconds in told]
                for name, told in version.engines.items()
            },
        )
        return Variant(role, version, self._observer, self._settings.cache_bytes)

    def _assembled(self, wanted: State, loaded: Mapping[str, Variant]) -> Served:
        variants = {role: loaded[given.tag].in_role(role) for role, given in wanted.roles.items()}
        shares = Shares.of(wanted) if wanted.shared else None
        shadowing, running = variants.get("shadow"), self._served.shadow if self._served else None
        if shadowing is None:
            return Served(wanted, variants, shares, None)
        if running is None or running.version is not shadowing.version:
            running = Shadow(shadowing.version, self._observer)
            running.start()
        return Served(wanted, variants, shares, running)

    def _trouble(self, problem: str, cause: Exception | None = None) -> None:
        """Notes why the state file is not followed, and logs it once."""
        if problem != self.problem:
            logs.get().error("state_not_followed", path=str(self.file.path), reason=problem, exc_info=cause)
        self.problem = problem

    def _tell(self) -> None:
        serving = self.served.state
        roles = {role: str(given) for role, given in serving.roles.items()}
        logs.get().info("deployed", revision=serving.revision, **roles)

    def _report(self) -> None:
        serving = self._served.state if self._served else None
        self._presence.report(Report(os.getpid(), serving, self._refused, self.problem))
        if serving is not None:
            shares: dict[tuple[str, str], float] = {
                (role, given.tag): 100 - serving.shared if role == "champion" else given.share or 0.0
                for role, given in serving.roles.items()
            }
            versions = [variant.version for variant in self.served.variants.values()]
            created = {version.tag: version.created.timestamp() for version in versions if version.created}
            self._observer.deployed(
                serving.revision,
                shares,
                is_followed=self.problem is None,
                created=created,
                engines={version.tag: (version.runtime.name, version.runtime.device) for version in versions},
            )


def state_path(settings: Settings) -> Path:
    """Where the state file is: as the settings say, or in BENTOML_HOME, by the model's name."""
    if settings.state_file:
        return Path(settings.state_file).expanduser()
    return store.home() / "causeway" / settings.model.partition(":")[0] / "state.json"


def settle(settings: Settings, built_with: Sequence[str] = ()) -> None:
    """Settles which version `latest` is, for all workers that this process starts, now and when one is replaced."""
    os.environ.pop(VARIABLE, None)
    with suppress(errors.VersionNotFound, errors.VersionRefused):
        os.environ[VARIABLE] = store.find(pinned(settings.model, built_with)).tag


def pinned(tag: str, built_with: Sequence[str]) -> str:
    """`tag`, or for `name:latest` the tag in `built_with`: that of the same name, else the first; a Bento has its own.

    Outside of a Bento `built_with` is empty.
    """
    name, _, version = tag.partition(":")
    if version != LATEST or not built_with:
        return tag
    return next((built for built in built_with if built.startswith(f"{name}:")), built_with[0])
