"""Progressive delivery: a canary whose share grows step by step, as long as it is no worse than the champion.

At each step the canary holds its share for a while, with a lease that is renewed as long as this process lives. It is
compared with the champion at every look. Where it is worse, where nothing can be compared, or where somebody else
changes the deployment, it ends, and the champion has all requests again; after the last step it is promoted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from causeway import errors, state
from causeway.figures import Figures
from causeway.judge import Comparison, Limits, compare
from causeway.operations import By, Operations, found
from causeway.state import Assignment

LOOK_S = 1.0
"""How often the figures are looked at."""

LEASE_S = 60.0
"""How long the canary stays after this process died, at most."""

PATIENCE = 10
"""A step without enough requests is held for so many times its length, and then given up."""


@dataclass(frozen=True)
class Plan:
    """How a version gets its requests."""

    steps: Sequence[float] = (1, 5, 25, 50, 100)
    """Percent, growing."""
    hold_s: float = 60.0
    """Seconds at each step, at least."""
    min_requests: float = 100
    """The canary's answers at each step, at least."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Progress:
    """How far a rollout is."""

    share: float
    step: int
    held_s: float
    requests: int
    """That the canary got at this step."""
    compared: Sequence[Comparison]


@dataclass(frozen=True)
class Verdict:
    """How a rollout ended."""

    is_promoted: bool
    reason: str
    steps: Sequence[Progress] = ()
    """How each step that was begun looked last."""


class WentBack(Exception):
    """The rollout ends here; why."""


Look = Callable[[], Mapping[str, Figures]]
"""The figures of each version; raises `OSError` where nobody gives them."""


class Rollout:
    """Takes one version through a `Plan`."""

    def __init__(self, operations: Operations, tag: str, plan: Plan, by: By, look: Look) -> None:
        self.tag = found(tag)
        self._operations = operations
        self._plan = plan
        self._by = by
        self._look = look
        self._steps: dict[int, Progress] = {}
        self._revision = 0
        """That it left the deployment with; with another, somebody else changed it."""
        self._given: list[Assignment] = []
        """Every canary of its own, noted before it is given: no other is ended."""

    def run(self, tell: Callable[[Progress], None] = lambda progress: None) -> Verdict:
        """Walks the steps and says how it went; `tell` hears of every look.

        Raises the `Refusal` of its first step, where it may not begin. Whatever else ends it, also an interrupt, ends
        the canary.
        """
        started = self._look()
        before = self._operations.status().state
        champion, self._revision = before.champion, before.revision
        challenger = before.roles.get("challenger")
        if challenger and (challenger.share or 0) + self._plan.steps[-1] > 100:
            raise errors.ChangeRefused(f"the challenger has {challenger.share:g} %: end it, or roll out to less")
        try:
            with self._ending():
                for number, share in enumerate(self._plan.steps):
                    self._step(share)
                    self._hold(number, share, champion, started, tell)
                by = By(self._by.who, self._by.why or f"rollout: no worse up to {self._plan.steps[-1]:g} %")
                self._operations.promote(self.tag, by, revision=self._revision)
        except WentBack as exc:
            return Verdict(False, str(exc), list(self._steps.values()))
        except errors.Refusal as exc:
            if self._revision == before.revision:
                raise
            return Verdict(False, exc.message, list(self._steps.values()))
        return Verdict(True, f"{self.tag} is the champion", list(self._steps.values()))

    def _step(self, share: float) -> None:
        until = state.now() + timedelta(seconds=LEASE_S)
        by = By(self._by.who, self._by.why or "rollout")
        self._given.append(Assignment(self.tag, share, until))
        done = self._operations.canary(self.tag, share, by, until=until, revision=self._revision)
        self._revision = done.change.revision

    def _hold(
        self,
        number: int,
        share: float,
        champion: str,
        started: Mapping[str, Figures],
        tell: Callable[[Progress], None],
    ) -> None:
        """Returns after the step was held without a reason to go back. Raises `WentBack`."""
        plan, nothing = self._plan, Figures()
        before = self._seen()
        began = renewed = time.monotonic()
        while True:
            time.sleep(LOOK_S)
            self._operations.check_unchanged(self._revision)
            now, seen = time.monotonic(), self._seen()
            if not seen.get(self.tag, nothing).canary_share:
                raise WentBack("the service whose /metrics are read does not serve this canary")
            canary = seen.get(self.tag, nothing).since(before.get(self.tag, nothing))
            beside = seen.get(champion, nothing).since(before.get(champion, nothing))
            if beside.requests < plan.min_requests:
                beside = seen.get(champion, nothing).since(started.get(champion, nothing))
            if min(canary.requests, beside.requests, *canary.by_status.values(), 0) < 0:
                raise WentBack("the service was restarted, and its counters began again")
            compared = compare(beside, canary, plan.limits)
            self._steps[number] = Progress(share, number, now - began, int(canary.requests), compared)
            tell(self._steps[number])
            worse = [comparison for comparison in compared if comparison.is_worse]
            if worse:
                raise WentBack("; ".join(map(str, worse)))
            is_enough = canary.requests >= plan.min_requests
            if now - began >= plan.hold_s and is_enough:
                return
            if now - began >= plan.hold_s * PATIENCE:
                reason = f"{int(canary.requests)} of {plan.min_requests:g} requests came at {share:g} % "
                raise WentBack(f"{reason}in {now - began:.0f} s: too few to judge by")
            if now - renewed > LEASE_S / 2:
                self._step(share)
                renewed = now

    def _seen(self) -> Mapping[str, Figures]:
        try:
            return self._look()
        except OSError as exc:
            raise WentBack(f"the service's /metrics do not answer: {exc}") from exc

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Ends the canary whatever happens."""
        try:
            yield
        except BaseException as exc:
            self._end("it was interrupted" if isinstance(exc, KeyboardInterrupt) else str(exc) or type(exc).__name__)
            raise

    def _end(self, reason: str) -> None:
        """Ends the canary, where it is still the one that this rollout gave."""
        now = self._operations.status().state
        if now.roles.get("canary") in self._given:
            by = By(self._by.who, f"rollout went back: {reason}")
            with suppress(errors.ChangeConflict, errors.ChangeRefused):
                self._operations.stop("canary", by, revision=now.revision)
