"""One stage of a load test: a rate that was offered for a while, and what became of it."""

from __future__ import annotations

import msgspec

from load_tests.objective import Objective


class Latency(msgspec.Struct, frozen=True):
    """Of right answers, in milliseconds from the moment at which a request was meant to go out."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class ServerSide(msgspec.Struct, frozen=True):
    """What the server says of itself under /metrics, after the stage less before; None where it says nothing of it."""

    queue_ms: float | None = None
    """Mean time in the queue, of answers 200."""
    compute_ms: float | None = None
    """Mean time of the batch, of answers 200."""
    decode_ms: float | None = None
    encode_ms: float | None = None
    batch_rows: float | None = None
    """Mean rows in a call of the engine."""
    released: dict[str, float] = {}
    """Calls of the engine by why the batch was not larger."""
    refusals: dict[str, float] = {}
    """Requests that got no prediction, by code."""
    loop_lag_ms: float | None = None
    """Mean."""


class Usage(msgspec.Struct, frozen=True):
    """CPU during a stage, in cores: 1.0 is one core all the time. None where it cannot be seen from here."""

    server: float | None
    """Of the server's processes."""
    busiest_server_process: float | None
    """Of that one of them that used most: a worker at 1.0 has nothing left, however many cores are idle."""
    generator: float
    """Of all generator processes."""
    busiest_generator: float
    """Of that one of them that used most."""
    machine: float
    """Share of the cores of this machine that ran anything, 0 to 1."""
    memory_mb: float | None
    """Resident memory of the server's processes at the end."""


class Stage(msgspec.Struct, frozen=True):
    """What became of the requests of one stage that were due after the warm-up."""

    rate: float
    """Requests a second that were offered."""
    rows: float
    """Rows in a request, on average."""
    warm_up_s: float
    seconds: float
    """That count, after the warm-up."""
    due: int
    """Requests whose moment came in these seconds; all of those below add up to it."""
    right: int
    """Answers 200 with the right content."""
    refused: int
    """Answers 503, 504 or 429: the server said that it will not, in the form of the wire contract or not."""
    failed: int
    """Other statuses, broken connections, and answers that never came."""
    wrong: int
    """Answers 200 whose content is not what it should be."""
    unsent: int
    """Requests for which the generator had no connection."""
    good: int
    """Right answers within the objective's p99: what goodput counts."""
    good_rows: int
    """Rows in them."""
    sent: int
    """Requests that went out in the stage's own time: the rate that was achieved."""
    late_p99_ms: float
    """How much later than intended the generator turned to a request."""
    connections: int
    latency: Latency | None
    """None without a right answer."""
    refusal_p99_ms: float | None
    """From the intended moment to a refusal."""
    faults: dict[str, int]
    """What was wrong, and how often."""
    usage: Usage
    server_side: ServerSide
    users: dict[str, Latency] = {}
    """By kind of user, where there are several."""
    began: float = 0.0
    """Seconds since 1970."""
    in_turn: bool = False
    """Offered in turn with another rate, once the tipping point was known: to compare them, not to find it."""

    @property
    def goodput(self) -> float:
        """Right answers a second within the objective."""
        return self.good / self.seconds

    @property
    def goodput_rows(self) -> float:
        """Predictions a second in them."""
        return self.good_rows / self.seconds

    @property
    def throughput(self) -> float:
        """Right answers a second."""
        return self.right / self.seconds

    @property
    def achieved_rate(self) -> float:
        """Requests a second that went out."""
        return self.sent / self.seconds

    @property
    def errors(self) -> float:
        """Share of the requests without a right answer, 0 to 1."""
        return (self.due - self.right) / self.due if self.due else 0.0

    def meets(self, objective: Objective) -> bool:
        """Whether the service kept to the objective."""
        return self.latency is not None and self.latency.p99_ms <= objective.p99_ms and self.errors <= objective.errors
