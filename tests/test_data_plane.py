"""The data plane, served: deadlines, crowds, leavers, poison, large bodies, and what is counted of it."""

from __future__ import annotations

import asyncio
import json
import re
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from prometheus_client import CollectorRegistry

from causeway import errors
from causeway.batching import RELEASED
from causeway.deployment import Deployment
from causeway.monitoring.metrics import Metrics
from causeway.settings import Settings
from causeway.variant import Variant
from tests import tiny
from tests.conftest import Server, serving, wait_until
from tests.monitoring.test_metrics import REQUESTS, counted, scraped
from tests.test_batching import HeldEngine, rows
from tests.test_rest import Reply, Wire, assert_refused, chunked, head, open_connections

POISON = 5.0
LONG = {"X-Timeout-Ms": "30000"}


@pytest.fixture(scope="module")
def dear(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model that takes more than 10 ms a row."""
    yield from served(tmp_path_factory.mktemp("dear"), tiny.dear(1100))


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A cheap model that takes large bodies and keeps answers."""
    room = {"MAX_BODY_BYTES": str(64 * 2**20), "MAX_ROWS": "1000000", "CACHE_BYTES": "1000000"}
    yield from served(tmp_path_factory.mktemp("roomy"), tiny.POISONABLE, **room)


def served(home: Path, graph: bytes, **settings: str) -> Iterator[Server]:
    """In a store of its own: BentoML empties the metrics of all that share one whenever another starts."""
    stored = tiny.saved(model_onnx=graph, samples_json=tiny.SIGMOID_SAMPLES)
    name, _, version = stored.tag.partition(":")
    shutil.copytree(stored.path, home / "models" / name / version)
    variables = {f"CAUSEWAY_{name}": value for name, value in settings.items()}
    with serving(
        home, home / "log", CAUSEWAY_MODEL=stored.tag, CAUSEWAY_MAX_TIMEOUT_MS="120000", **variables
    ) as server:
        yield server


def predict(*values: float, **headers: str) -> bytes:
    """A request with a row for each value of `a`."""
    body = json.dumps({"features": [[value, 1] for value in values]}).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return head(headers={"Content-Length": str(len(body)), **LONG, **names}) + body


def assert_right(reply: Reply, *values: float) -> None:
    assert reply.status == 200, reply.body
    np.testing.assert_allclose(reply.json["predictions"], tiny.sigmoid([[value, 1] for value in values]), atol=1e-5)


@pytest.fixture
def wires(request: pytest.FixtureRequest) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def busy(server: Server, wires: ExitStack, n_rows: int) -> Wire:
    """A connection with a request of so many rows that are being computed."""
    before = scraped(server).get("causeway_rows_total", 0)
    wire = wires.enter_context(Wire(server))
    wire.send(predict(*[0.5] * n_rows))
    wait_until(lambda: scraped(server).get("causeway_rows_total", 0) > before, "the first batch")
    return wire


def processes(server: Server) -> list[psutil.Process]:
    """Those of the service that do not decode."""
    root = psutil.Process(server.process.pid)
    return [p for p in [root, *root.children(recursive=True)] if "causeway.decoding" not in p.cmdline()]


def decoders(server: Server) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if "causeway.decoding" in process.cmdline():
                found.append(process)
    return found


# Deadlines and admission


def test_rows_that_take_longer_than_their_deadline_are_refused_at_once(dear: Server) -> None:
    with Wire(dear) as wire:
        reply = wire.ask(predict(*[0.5] * 1000, X_Timeout_Ms="100"))
        if reply.status == 504:  # after an idle second one such request is let in, to see whether it is true
            reply = wire.ask(predict(*[0.5] * 1000, X_Timeout_Ms="100"))
    assert_refused(reply, 503, "deadline_unreachable")
    assert reply.json["timeout_ms"] == 100
    assert reply.json["needed_ms"] > 1000


def test_when_the_queue_is_too_long_the_head_of_a_request_is_enough_to_be_refused(
    dear: Server, wires: ExitStack
) -> None:
    before = scraped(dear)
    crowd = [busy(dear, wires, 20), *(wires.enter_context(Wire(dear)) for _ in range(5))]
    for wire in crowd[1:]:
        wire.send(predict(*[0.5] * 20))
    with Wire(dear) as late:
        body = predict(0.5).partition(b"\r\n\r\n")[2]
        late.send(head(headers={"Content-Length": str(len(body)), "X-Timeout-Ms": "150"}))
        reply = late.reply()
        assert_refused(reply, 503, "overloaded")
        assert reply.json["timeout_ms"] == 150
        assert reply.json["wait_ms"] > 150 * 0.8
        assert int(reply.headers["Retry-After"]) >= 1
        assert_right(late.ask(body + predict(0.25)), 0.25)
    for wire in crowd:
        assert_right(wire.reply(), *[0.5] * 20)
    counted(
        dear,
        before,
        {
            'causeway_refusals_total{code="overloaded"}': 1,
            REQUESTS % ("/predict", 503): 1,
            REQUESTS % ("/predict", 200): 7,
            "causeway_rows_total": 121,
        },
    )


def test_interactive_requests_are_answered_beside_a_bulk_backlog(dear: Server, wires: ExitStack) -> None:
    bulk = [wires.enter_context(Wire(dear)) for _ in range(5)]
    for wire in bulk:
        wire.send(predict(*[0.5] * 40, X_Priority="bulk"))
    with Wire(dear) as wire:
        for _ in range(3):
            assert_right(wire.ask(predict(0.25, X_Timeout_Ms="2000")), 0.25)
        answered, _, _ = select.select([wire.sock for wire in bulk], [], [], 0)
        assert len(answered) < len(bulk)
    for wire in bulk:
        assert_right(wire.reply(), *[0.5] * 40)


@pytest.mark.parametrize("priority", ["interactive", "bulk", " bulk "])
def test_a_priority_is_understood(dear: Server, priority: str) -> None:
    with Wire(dear) as wire:
        assert_right(wire.ask(predict(0.5, X_Priority=priority)), 0.5)


@pytest.mark.parametrize("priority", ["", "Bulk", "high", "bulk, interactive", "bulk\r\nX-Priority: bulk", "\xff"])
def test_a_priority_that_means_nothing_is_refused(dear: Server, priority: str) -> None:
    with Wire(dear) as wire:
        assert_refused(wire.ask(predict(0.5, X_Priority=priority)), 400, "header_invalid", {"header": "X-Priority"})
        assert_right(wire.ask(predict(0.5)), 0.5)


def test_the_deadline_that_passes_while_the_engine_works_is_told_with_the_caller_s_timeout() -> None:
    async def main() -> None:
        deployment = Deployment(Settings(model=tiny.saved().tag), Metrics(CollectorRegistry()))
        deployment.start()
        engine = HeldEngine()
        version = deployment.champion.version
        object.__setattr__(version, "runtime", Runs(engine))
        object.__setattr__(version.cost, "per_unit_s", 0.003)
        variant = Variant("champion", version, Metrics(CollectorRegistry()))
        with pytest.raises(errors.DeadlineExceeded) as late:
            await variant.score(rows(1), 33)
        assert late.value.facts == {"timeout_ms": 33}
        engine.go_on()
        np.testing.assert_array_equal((await variant.score(rows(3), 5000)).predictions, [[0], [2], [4]])
        variant.batcher.close()

    asyncio.run(main())


class Runs:
    def __init__(self, engine: HeldEngine) -> None:
        self.run = engine


# Those who leave


def test_of_clients_that_hang_up_no_row_is_computed_and_nothing_is_left(dear: Server, wires: ExitStack) -> None:
    stayer = busy(dear, wires, 200)
    before, connections = scraped(dear), open_connections(dear)
    threads = sum(process.num_threads() for process in processes(dear))
    for _ in range(4):
        leavers = [Wire(dear) for _ in range(250)]
        for leaver in leavers:
            leaver.send(predict(1.5, X_Timeout_Ms="30000"))  # on a slow machine too, leaving is what ends them
        for leaver in leavers:
            leaver.close()

    def answered(status: int) -> float:
        return grown(dear, before, REQUESTS % ("/predict", status))

    assert_right(stayer.reply(), *[0.5] * 200)
    wait_until(lambda: answered(200) + answered(499) == 1001, "an account of each")
    computed = grown(dear, before, "causeway_rows_total")
    # Of those who left some were computed before, and some were in the engine when they did.
    assert answered(499) > 500
    assert computed <= 200 + (answered(200) - 1) + 100
    wait_until(lambda: open_connections(dear) <= connections, "the end of every connection")
    assert sum(process.num_threads() for process in processes(dear)) <= threads
    with Wire(dear) as wire:
        assert_right(wire.ask(predict(0.5)), 0.5)


def grown(server: Server, before: Mapping[str, float], series: str) -> float:
    return scraped(server).get(series, 0) - before.get(series, 0)


# Poison


def test_in_each_batch_of_16_with_a_poisoned_request_15_get_their_answers(dear: Server, wires: ExitStack) -> None:
    before = scraped(dear)
    crowd = [wires.enter_context(Wire(dear)) for _ in range(16)]
    for guilty in (0, 7, 15):
        for i, wire in enumerate(crowd):
            wire.send(predict(POISON if i == guilty else i / 10))
        for i, wire in enumerate(crowd):
            reply = wire.reply()
            assert_refused(reply, 500, "model_failed") if i == guilty else assert_right(reply, i / 10)
    counted(
        dear,
        before,
        {
            "causeway_poisoned_requests_total": 3,
            'causeway_refusals_total{code="model_failed"}': 3,
            REQUESTS % ("/predict", 500): 3,
            REQUESTS % ("/predict", 200): 45,
        },
    )


# Where the time went


TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
PARAM = rf'\s*;\s*({TOKEN})\s*=\s*({TOKEN}|"(?:[^"\\]|\\.)*")'
METRIC = re.compile(rf"\s*({TOKEN})((?:{PARAM})*)\s*(?:,|$)")


def server_timing(reply: Reply) -> dict[str, dict[str, str]]:
    """Parsed by the grammar of W3C Server Timing, section 3."""
    text, metrics, position = reply.headers["Server-Timing"], {}, 0
    while position < len(text):
        match = METRIC.match(text, position)
        assert match, text
        metrics[match[1]] = {name: value.strip('"') for name, value in re.findall(PARAM, match[2])}
        position = match.end()
    return metrics


@pytest.mark.parametrize("n", [1, 7])
def test_an_answer_tells_where_its_time_went(dear: Server, n: int) -> None:
    with Wire(dear) as wire:
        started = time.perf_counter()
        reply = wire.ask(predict(*[0.5] * n))
        waited_ms = (time.perf_counter() - started) * 1000
    metrics = server_timing(reply)
    assert list(metrics) == ["receive", "decode", "queue", "compute", "encode"]
    durations = [float(metric["dur"]) for metric in metrics.values()]
    assert min(durations) >= 0
    assert sum(durations) <= waited_ms
    batch_rows, reason = metrics["compute"]["desc"].split(" rows, ")
    assert 1 <= int(batch_rows) <= n
    assert reason in RELEASED


def test_an_answer_tells_how_long_its_body_took_to_come(dear: Server) -> None:
    data = predict(0.5)
    with Wire(dear) as wire:
        wire.send(data[:-5])
        time.sleep(0.1)
        metrics = server_timing(wire.ask(data[-5:]))
    assert float(metrics["receive"]["dur"]) > 90


@pytest.mark.parametrize(
    "data",
    [
        head(headers={"Content-Length": "2"}) + b"[]",
        head("GET", "/nothing"),
        head("GET", "/predict"),
        head(headers={"Content-Length": "2", "Content-Type": "text/plain"}) + b"[]",
        predict(POISON),
    ],
    ids=["400", "404", "405", "415", "500"],
)
def test_a_refusal_tells_how_long_it_took(dear: Server, data: bytes) -> None:
    with Wire(dear) as wire:
        metrics = server_timing(wire.ask(data))
    assert list(metrics) == ["refused"]
    assert float(metrics["refused"]["dur"]) >= 0


def test_batches_are_counted_by_why_they_were_released(dear: Server) -> None:
    before = scraped(dear)
    with Wire(dear) as wire:
        for _ in range(3):
            assert_right(wire.ask(predict(0.5)), 0.5)
    counted(dear, before, {'causeway_batches_total{released="idle"}': 3, "causeway_rows_total": 3})


# The response cache


def test_kept_answers_equal_those_that_were_computed_and_are_counted(roomy: Server) -> None:
    before = scraped(roomy)
    with Wire(roomy) as wire:
        replies = [wire.ask(predict(*values)) for values in ([0.5, 1.5], [0.5], [0.5, 1.5], [0.5], [1.5, 0.5])]
    for reply, values in zip(replies, ([0.5, 1.5], [0.5], [0.5, 1.5], [0.5], [1.5, 0.5]), strict=True):
        assert_right(reply, *values)
    assert [server_timing(reply)["compute"]["desc"] == "0 rows, cached" for reply in replies] == [
        *(False, False, True, True),
        False,
    ]
    assert replies[0].json["predictions"] == replies[2].json["predictions"]
    counted(
        roomy,
        before,
        {
            'causeway_cache_requests_total{result="miss"}': 3,
            'causeway_cache_requests_total{result="hit"}': 2,
            "causeway_rows_total": 5,
        },
    )


def test_a_failure_is_never_kept(roomy: Server) -> None:
    before = scraped(roomy)
    with Wire(roomy) as wire:
        for _ in range(2):
            assert_refused(wire.ask(predict(POISON)), 500, "model_failed")
    counted(roomy, before, {"causeway_poisoned_requests_total": 2})


def test_without_being_asked_to_the_service_keeps_nothing(dear: Server) -> None:
    before = scraped(dear)
    with Wire(dear) as wire:
        for _ in range(2):
            assert_right(wire.ask(predict(0.5)), 0.5)
    counted(dear, before, {"causeway_rows_total": 2})
    looked_up = {name: n for name, n in scraped(dear).items() if name.startswith("causeway_cache_requests_total")}
    assert list(looked_up.values()) == [0, 0]


# Large bodies


def large(n_bytes: int, last: str = "0.5") -> tuple[bytes, int]:
    """A body of about this size with numbers of many digits, and how many rows it has."""
    row = b"[0.5" + b"0" * 100 + b",1]"
    n_rows = n_bytes // (len(row) + 1)
    return b'{"features":[' + b",".join([row] * (n_rows - 1)) + f",[{last},1]]}}".encode(), n_rows


def test_a_body_of_50_mb_is_answered_rightly_while_others_are_served(roomy: Server) -> None:
    body, n_rows = large(50 * 2**20)
    replies: list[Reply] = []

    def send() -> None:
        with Wire(roomy) as sender:
            replies.append(
                sender.ask(head(headers={"Content-Length": str(len(body)), "X-Timeout-Ms": "120000"}) + body)
            )

    sending = threading.Thread(target=send)
    sending.start()
    alive = 0
    with Wire(roomy) as prober:
        while sending.is_alive():
            assert prober.ask(head("GET", "/livez")).status == 200
            assert_right(prober.ask(predict(alive % 40 / 10)), alive % 40 / 10)
            alive += 1
    (reply,) = replies
    assert_right(reply, *[0.5] * n_rows)
    assert alive >= 30


def test_the_fault_of_a_large_body_is_named(roomy: Server) -> None:
    body, n_rows = large(2**20, last='"x"')
    with Wire(roomy) as wire:
        reply = wire.ask(head(headers={"Content-Length": str(len(body)), **LONG}) + body)
        assert_refused(reply, 400, "feature_not_a_number")
        assert reply.json["row"] == n_rows - 1
        assert_right(wire.ask(predict(0.5)), 0.5)


def test_a_decoding_process_that_is_killed_costs_nobody_an_answer(roomy: Server) -> None:
    body, n_rows = large(2**21)
    data = head(headers={"Content-Length": str(len(body)), **LONG}) + body
    with Wire(roomy) as wire:
        assert_right(wire.ask(data), *[0.5] * n_rows)
        (process,) = decoders(roomy)
        process.suspend()
        wire.send(data)
        with Wire(roomy) as other:
            assert_right(other.ask(predict(0.5)), 0.5)
        process.kill()
        assert_right(wire.reply(), *[0.5] * n_rows)
    assert len(decoders(roomy)) == 1


def by_httpx(url: str, body: bytes) -> None:
    def halfway() -> Iterator[bytes]:
        yield body
        raise InterruptedError

    with pytest.raises(InterruptedError):
        httpx.post(f"{url}/predict", content=halfway(), headers={"Content-Type": "application/json"})


def by_curl(url: str, body: bytes) -> None:
    with subprocess.Popen(
        ["curl", "-sS", f"{url}/predict", "-T", "-", "-X", "POST", "-H", "Content-Type: application/json"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(body)
        process.stdin.flush()
        process.kill()


def by_reset(url: str, body: bytes) -> None:
    host, port = url.removeprefix("http://").split(":")
    with Wire(Server(f"http://{host}:{port}", None, None)) as wire:  # type: ignore[arg-type]
        wire.send(chunked(body))


@pytest.mark.parametrize("leave", [by_httpx, by_curl, by_reset])
def test_a_client_that_leaves_in_the_middle_of_a_large_body_leaves_nothing_behind(roomy: Server, leave: Any) -> None:
    before, connections = scraped(roomy), open_connections(roomy)
    leave(roomy.url, large(20 * 2**20)[0][:-100_000])
    counted(roomy, before, {REQUESTS % ("/predict", 499): 1, "causeway_rows_total": 0})
    wait_until(lambda: open_connections(roomy) <= connections, "the end of the connection")
    with Wire(roomy) as wire:
        assert_right(wire.ask(predict(0.5)), 0.5)


def test_a_client_that_leaves_while_its_large_body_is_decoded_is_dropped(roomy: Server) -> None:
    body, _ = large(2**21, last="0.75")
    before = scraped(roomy)
    with Wire(roomy) as wire:
        wire.ask(head(headers={"Content-Length": str(len(body)), **LONG}) + body)
    (process,) = decoders(roomy)
    process.suspend()
    with Wire(roomy) as leaver:
        leaver.send(head(headers={"Content-Length": str(len(body)), **LONG}) + body)
        with Wire(roomy) as other:
            assert_right(other.ask(predict(0.5)), 0.5)
    with suppress(psutil.NoSuchProcess):  # it was ended already, for the leaver
        process.resume()
    wait_until(lambda: grown(roomy, before, REQUESTS % ("/predict", 499)) == 1, "the leaver's account")


def test_a_large_body_meets_its_deadline_while_it_is_decoded(roomy: Server) -> None:
    body, _ = large(2**21)
    data = head(headers={"Content-Length": str(len(body)), **LONG}) + body
    with Wire(roomy) as wire:
        wire.ask(data)
        (process,) = decoders(roomy)
        process.suspend()
        reply = wire.ask(data.replace(b"30000", b"700"))
        assert_refused(reply, 504, "deadline_exceeded", {"timeout_ms": 700})
        assert wire.ask(data).status == 200
