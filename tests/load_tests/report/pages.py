"""Results to be told of, and a reader that notices what is wrong with a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

from msgspec.structs import replace

from load_tests.result import Check, Repeat, Result, Sample
from load_tests.scaling import fits
from load_tests.stage import ServerSide
from load_tests.verdict import judge
from tests.load_tests import stages

VOID = {"br", "link", "meta"}
OBJECTIVE = stages.OBJECTIVE


def ramp(name: str = "default") -> Result:
    """Three repeats that tip over, with fitted models, several kinds of users and refusals of two codes."""
    repeats = [_repeat(capacity) for capacity in (1_000.0, 1_020.0, 990.0)]
    fitted = fits([stage for repeat in repeats for stage in repeat.stages], OBJECTIVE, 1_100.0)
    assert fitted
    return stages.result(name, repeats, fits=fitted)


def limited() -> Result:
    """One whose generator had nothing left."""
    usage = stages.usage(server=0.3, generator=0.97)
    return stages.result("limited", [judge(stages.ramp(usage=usage), OBJECTIVE)], fits=ramp().fits)


def spike(name: str = "spiked") -> Result:
    """A check passed and one failed; memory was not to be seen."""
    seen = [stages.stage(rate, began=at) for at, rate in enumerate((500.0, 1_500.0, 500.0))]
    samples = [
        Sample(0.5 * n, 1_500.0 if 4 <= n < 8 else 500.0, 90, 10, 0, 5.0, 12.0, None, 40, 9, 0.5) for n in range(12)
    ]
    checks = [Check("recovery", True, "after 0.5 s"), Check("open files", False, "3 are left")]
    repeat = Repeat(seen, None, None, "", "none")
    usual = stages.result(name, shape="spike", samples=samples, checks=checks, says="1 of 2 checks passed.")
    return replace(usual, repeats=[repeat])


def _repeat(capacity: float) -> Repeat:
    codes = {"overloaded": 9.0, "deadline_exceeded": 1.0}
    users = {"one": stages.latency(10.0), "many": stages.latency(30.0)}
    told = [
        replace(
            stage,
            users=users,
            latency=stages.latency(20.0 + 90.0 * (load >= 1) + 10 * load),
            server_side=ServerSide(
                queue_ms=load, compute_ms=1 + load, batch_rows=1 + 4 * load, refusals=codes if stage.refused else {}
            ),
        )
        for load, stage in zip(stages.FACTORS, stages.ramp(capacity), strict=True)
    ]
    return judge(told, OBJECTIVE)


def cut_short() -> Result:
    """One that ended before its first stage."""
    usual = stages.result("cut short", says="Nothing was measured.")
    circumstances = usual.circumstances | {"ended_early": "the server ended"}
    return replace(usual, repeats=[Repeat([], None, None, "", "none")], circumstances=circumstances)


@dataclass
class Page(HTMLParser):
    """What stands in a page. Fails where its tags do not nest."""

    html: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, name: str) -> list[str]:
        """Its values, wherever it stands."""
        return [attributes[name] for _, attributes in self.tags if name in attributes]
