"""What was noted is in the database once, whatever is killed, and for as long as the settings say."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, func, select, text

from causeway.monitoring import backlog, database, keeper, keeper_process, prediction_writer, sampling
from causeway.monitoring.database import connect, predictions, spool_positions
from causeway.monitoring.keeper import Keeper
from causeway.monitoring.model_metrics import ModelMetrics
from causeway.monitoring.place import at
from causeway.monitoring.recorder import Recorder
from causeway.monitoring.spool import Spool
from causeway.settings import Settings
from tests.conftest import ROOT, environment, wait_until
from tests.monitoring.test_recorder import LeftOut, Noted, packed, record
from tests.postgres import Postgres


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "causeway-metrics-one"


@pytest.fixture
def settings(database_url: str) -> Settings:
    """The database of this test; SQLite's is then not where it would be by default."""
    return replace(Settings(), database_url=database_url)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def started(folder: Path, settings: Settings, registry: CollectorRegistry) -> Iterator[Callable[[], Keeper]]:
    """Makes keepers of the folder, in this process."""
    made: list[Keeper] = []

    def start() -> Keeper:
        made.append(Keeper(folder, settings, ModelMetrics(CollectorRegistry() if made else registry)))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    connected = connect(settings.database_url)
    yield connected
    connected.dispose()


def append(writer: Spool, *records: Noted) -> None:
    writer.append([frame(records)], _n_rows(records), time.time())


def frame(records: Sequence[Noted], factor: int = 1) -> bytes:
    return packed(records, factor=factor, clock=time.time() - time.perf_counter())


def _n_rows(records: Sequence[Noted]) -> int:
    return sum(len(answer[0]) for _, _, _, answer, _ in records)


def drain(keeping: Keeper) -> None:
    """Lets it work until nothing is left."""
    while keeping.round() == 0:
        pass


def logged(engine: Engine) -> list[str]:
    """The ids in the database, in the order in which they were written."""
    with engine.connect() as connection:
        return list(connection.scalars(select(predictions.c.request_id).order_by(predictions.c.id)))


def test_rows_are_what_was_noted(folder: Path, started: Callable[[], Keeper], engine: Engine) -> None:
    writer = Spool(folder)
    noted = [record(str(n), n_rows=1 + n % 3) for n in range(50)]
    append(writer, *noted)
    drain(started())
    with engine.connect() as connection:
        rows = connection.execute(select(predictions).order_by(predictions.c.id)).all()
    for row, (request_id, _, latency, answer, trace) in zip(rows, noted, strict=True):
        X, scores, (role, tag), _, key, seconds = answer
        assert (row.request_id, row.variant, row.model_version, row.n_rows) == (request_id, role, tag, len(X))
        assert (row.routing_key, row.trace_id) == (key, trace)
        np.testing.assert_array_equal(np.array(json.loads(row.features), np.float32), X)
        np.testing.assert_array_equal(np.array(json.loads(row.predictions), np.float32), scores)
        in_ms = (row.latency_ms, row.decode_ms, row.queue_ms, row.compute_ms)
        assert in_ms == pytest.approx([1000 * each for each in (latency, *seconds[:-1])])
        assert abs(row.time - time.time()) < 60
    writer.close()


def test_a_segment_goes_once_it_is_written_and_left(
    folder: Path, started: Callable[[], Keeper], engine: Engine
) -> None:
    writer, keeping = Spool(folder), started()
    append(writer, record("a"))
    keeping.round()
    assert len(list(folder.glob("*.spool"))) == 1
    writer.close()
    keeping.round()
    assert list(folder.glob("*.spool")) == []
    append(writer, record("b"))
    writer.close()
    keeping.round()
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(spool_positions)) == 1  # the last is told next time
    assert logged(engine) == ["a", "b"]


def test_the_next_keeper_goes_on_where_the_last_one_was(
    folder: Path, started: Callable[[], Keeper], engine: Engine
) -> None:
    writer = Spool(folder)
    for n in range(10):
        append(writer, record(str(n)))
        started().round()
    assert logged(engine) == [str(n) for n in range(10)]
    writer.close()


def test_of_two_keepers_at_once_the_slower_writes_nothing_twice(
    folder: Path, started: Callable[[], Keeper], engine: Engine
) -> None:
    writer, slow, quick = Spool(folder), started(), started()
    append(writer, record("a"))
    slow.round()
    append(writer, record("b"))
    quick.round()
    assert slow.round() in (keeper.BACK_OFF_S[0], keeper.PACE_S)
    append(writer, record("c"))
    slow.round()
    assert logged(engine) == ["a", "b", "c"]
    writer.close()


def test_what_cannot_be_read_is_counted_and_stops_nothing(
    folder: Path, started: Callable[[], Keeper], engine: Engine, registry: CollectorRegistry
) -> None:
    writer = Spool(folder)
    append(writer, record("a"))
    writer.append([b"not a batch"], 3, time.time())
    append(writer, record("b"))
    writer.close()
    drain(started())
    assert logged(engine) == ["a", "b"]
    assert left_out(registry, "unreadable") == 3


def test_what_the_database_refuses_is_counted_and_stops_nothing(
    folder: Path, postgres: Postgres, registry: CollectorRegistry
) -> None:
    url = postgres.create_database()
    engine, writer = connect(url), Spool(folder)
    keeping = Keeper(folder, replace(Settings(), database_url=url), ModelMetrics(registry))
    append(writer, record("x" * 129))  # longer than its column
    keeping.round()
    append(writer, record("a"))
    keeping.round()
    assert logged(engine) == ["a"]
    assert left_out(registry, "unreadable") == 1
    writer.close()
    keeping.close()
    engine.dispose()


def left_out(registry: CollectorRegistry, reason: str) -> float | None:
    return registry.get_sample_value("causeway_prediction_log_left_out_total", {"reason": reason})


def test_a_database_that_cannot_be_opened_is_awaited(
    folder: Path, registry: CollectorRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    keeping = Keeper(folder, Settings(), ModelMetrics(registry))
    database = folder.parent.parent / "predictions.sqlite"
    database.mkdir(parents=True)
    writer = Spool(folder)
    append(writer, record("a"))
    pauses = [keeping.round() for _ in range(8)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == keeper.BACK_OFF_S
    database.rmdir()
    assert keeping.round() == keeper.PACE_S
    engine = connect(at(Settings(), folder.parent).database_url)
    assert logged(engine) == ["a"]
    assert registry.get_sample_value("causeway_database_errors_total") == 8
    said = capsys.readouterr().out
    assert (said.count("database_failed"), said.count("database_back")) == (1, 1)
    writer.close()
    keeping.close()
    engine.dispose()


RECORDER = """
import sys, time
from pathlib import Path
from tests.monitoring.test_recorder import LeftOut, record
from causeway.monitoring.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), LeftOut())
recorder.start()
for n in range(int(sys.argv[2])):
    recorder.note(*record(f"killed-{n}"))
recorder.flush()
while recorder._writer._waiting:
    time.sleep(0.01)
print("noted", flush=True)
time.sleep(1000)
"""


def has_keeper(folder: Path) -> bool:
    lock = keeper_process.take(folder)
    if lock is not None:
        os.close(lock)
    return lock is None


def killed_worker(folder: Path, n: int) -> subprocess.Popen[bytes]:
    """A worker that has noted so many requests; to be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(folder), str(n)],
        cwd=ROOT,
        env=environment(Path(os.environ["BENTOML_HOME"])),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"noted\n"
    return process


def test_a_worker_that_is_killed_takes_its_keeper_along_and_another_writes_the_rest(folder: Path) -> None:
    killed = killed_worker(folder, 500)
    wait_until(lambda: has_keeper(folder), "a keeper")
    killed.kill()
    killed.communicate()
    recording = Recorder(folder, LeftOut())
    recording.start()
    recording.note(*record("after"))
    recording.flush()
    engine = connect(at(Settings(), folder.parent).database_url)
    wait_until(lambda: len(logged(engine)) == 501, "all predictions in the database")
    recording.close()
    assert sorted(logged(engine)) == sorted([*(f"killed-{n}" for n in range(500)), "after"])
    assert not has_keeper(folder)
    engine.dispose()


def test_the_spool_of_a_server_that_is_no_more_is_written_by_another(
    folder: Path, started: Callable[[], Keeper], engine: Engine
) -> None:
    gone = folder.with_name("causeway-metrics-gone")
    leave(gone)
    sampling.tell(gone, 2)
    writer = Spool(gone)
    append(writer, *(record(str(n)) for n in range(100)))
    writer.close()
    folder.mkdir()
    keeping = started()
    drain(keeping)
    assert logged(engine) == [str(n) for n in range(100)]
    assert not gone.exists()


def leave(folder: Path) -> None:
    """Makes it the spool of a server that is no more."""
    lock = keeper_process.take(folder)
    assert lock is not None
    os.close(lock)


@pytest.mark.parametrize("name", ["backups", "causeway-metrics", "process-one"])
def test_a_folder_of_others_in_the_spool_is_left_alone(folder: Path, started: Callable[[], Keeper], name: str) -> None:
    others = folder.with_name(name)
    leave(others)
    (others / "precious").touch()
    never_ours = folder.with_name("causeway-metrics-without-keeper")
    never_ours.mkdir()
    folder.mkdir()
    drain(started())
    assert {each.name for each in others.iterdir()} == {"keeper.lock", "precious"}
    assert list(never_ours.iterdir()) == []


def test_a_file_of_others_in_the_spool_of_a_server_that_is_no_more_stays(
    folder: Path, started: Callable[[], Keeper]
) -> None:
    gone = folder.with_name("process-7")
    leave(gone)
    (gone / "precious").touch()
    folder.mkdir()
    drain(started())
    assert [each.name for each in gone.iterdir()] == ["precious"]


def test_what_is_no_segment_stops_nothing(folder: Path, started: Callable[[], Keeper], engine: Engine) -> None:
    folder.mkdir(parents=True)
    (folder / "notes.spool").touch()
    os.mkfifo(folder / "000000000001-1-0123456789abcdef.spool")
    (folder / "000000000002-1-0123456789abcdef.spool").mkdir()
    loop = folder / "000000000003-1-0123456789abcdef.spool"
    loop.symlink_to(loop)
    writer = Spool(folder)
    append(writer, record("a"))
    drain(started())
    assert logged(engine) == ["a"]
    writer.close()


def test_more_segments_than_may_be_open_are_written(
    folder: Path, started: Callable[[], Keeper], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "OPEN", 3)
    for n in range(10):
        writer = Spool(folder)
        append(writer, record(str(n)))
        writer.close()
    keeping = started()
    for _ in range(4):
        keeping.round()
    assert sorted(logged(engine), key=int) == [str(n) for n in range(10)]
    assert list(folder.glob("*.spool")) == []


def test_an_error_of_any_kind_is_survived_and_told_once(
    folder: Path,
    started: Callable[[], Keeper],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    writer, keeping = Spool(folder), started()
    append(writer, record("a"))
    with monkeypatch.context() as broken:
        broken.setattr(prediction_writer, "rows", None)
        assert [keeping.round() for _ in range(3)] == [0.25, 0.5, 1.0]
    keeping.round()
    assert logged(engine) == ["a"]
    assert capsys.readouterr().out.count("keeper_failed") == 1
    writer.close()


def test_a_sqlite_file_that_is_removed_or_replaced_is_not_written_any_more(
    folder: Path, started: Callable[[], Keeper], settings: Settings
) -> None:
    if not settings.database_url.startswith("sqlite"):
        pytest.skip("PostgreSQL tells")
    path = Path(settings.database_url.removeprefix("sqlite:///"))
    writer, keeping = Spool(folder), started()
    for request_id in ("before", "after"):
        append(writer, record(request_id))
        assert keeping.round() == keeper.PACE_S
        if request_id == "before":
            path.unlink()
    reader = connect(settings.database_url)
    assert logged(reader) == ["after"]
    reader.dispose()
    writer.close()


def test_a_lock_on_the_table_counts_as_a_database_that_is_away(
    folder: Path, postgres: Postgres, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.2)
    url = postgres.create_database()
    engine, writer = connect(url), Spool(folder)
    keeping = Keeper(folder, replace(Settings(), database_url=url), ModelMetrics(registry))
    append(writer, record("a"))
    with engine.begin() as connection:
        connection.execute(text("LOCK TABLE predictions"))
        assert keeping.round() == keeper.BACK_OFF_S[0]
    keeping.round()
    assert logged(engine) == ["a"]
    assert registry.get_sample_value("causeway_database_errors_total") == 1
    writer.close()
    keeping.close()
    engine.dispose()


def test_what_takes_the_database_seconds_does_not_make_the_keeper_sample(
    folder: Path, started: Callable[[], Keeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, keeping = Spool(folder), started()
    monkeypatch.setattr(keeper, "STALLED_S", 0.0)
    append(writer, record("a"))
    keeping.round()
    now = time.monotonic()
    keeping._sampling.observe(60.0, 10**6, now + sampling.STEP_S)
    keeping._sampling.observe(60.0, 10**6 - 10**4, now + 2 * sampling.STEP_S)
    assert keeping._sampling.factor == 1
    writer.close()


@pytest.mark.parametrize(
    ("ran_s", "waited_s", "rests_s"),
    [(0.004, 0.0, 0.0), (0.004, 0.015, 0.0), (0.004, 0.3, 1.0), (0.1, 1.0, keeper.CONTENDED_PAUSE_S), (0.0, 0.0, 0.0)],
)
def test_a_keeper_that_hardly_gets_a_processor_leaves_it_to_others(
    ran_s: float, waited_s: float, rests_s: float
) -> None:
    assert keeper.rest_s(ran_s, waited_s) == pytest.approx(rests_s)


def test_a_keeper_that_is_to_end_waits_for_the_last_worker(
    folder: Path, started: Callable[[], Keeper], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "DRAIN_S", 60.0)
    writer = Spool(folder)
    append(writer, record("a"))
    work = threading.Thread(target=started().run, args=(bool,))  # of a pause: it is to end with the first
    work.start()
    wait_until(lambda: logged(engine) == ["a"], "a prediction in the database")
    append(writer, record("b"))
    writer.close()
    work.join()
    assert logged(engine) == ["a", "b"]


def test_a_keeper_that_is_asked_to_end_while_it_starts_writes_what_is_there(folder: Path) -> None:
    recording = Recorder(folder, LeftOut())
    recording.start()
    wait_until(lambda: recording._writer._keeper._process is not None, "a keeper")
    process = recording._writer._keeper._process
    assert process is not None
    process.terminate()
    recording.note(*record("a"))
    recording.close()
    assert process.wait() == 0
    engine = connect(at(Settings(), folder.parent).database_url)
    assert logged(engine) == ["a"]
    engine.dispose()


def test_a_worker_that_ends_at_once_leaves_nothing_in_the_spool(folder: Path) -> None:
    recording = Recorder(folder, LeftOut())
    recording.start()
    recording.note(*record("a"))
    recording.close()
    engine = connect(at(Settings(), folder.parent).database_url)
    wait_until(lambda: logged(engine) == ["a"], "the prediction in the database")
    engine.dispose()


def test_the_spool_of_another_server_that_runs_is_left_alone(
    folder: Path, started: Callable[[], Keeper], engine: Engine
) -> None:
    other = folder.with_name("causeway-metrics-other")
    lock = keeper_process.take(other)
    assert lock is not None
    writer = Spool(other)
    append(writer, record("a"))
    writer.close()
    folder.mkdir()
    drain(started())
    assert logged(engine) == []
    os.close(lock)


def test_of_keepers_that_are_killed_under_load_none_writes_anything_twice_or_leaves_anything_out(
    folder: Path, settings: Settings, engine: Engine
) -> None:
    variables = {"CAUSEWAY_DATABASE_URL": settings.database_url}
    if settings.database_url.startswith("sqlite"):
        variables, settings = {}, Settings()
        engine = connect(at(settings, folder.parent).database_url)
    is_over, n = threading.Event(), 0
    writer = Spool(folder)

    def load() -> None:
        nonlocal n
        while not is_over.wait(0.02):  # little enough for a keeper that gives way to other tests, which would sample
            append(writer, *(record(str(n + each)) for each in range(10)))
            n += 10

    load_thread = threading.Thread(target=load)
    load_thread.start()
    for _ in range(2):
        running = run_keeper(folder, variables)
        at_start = len(logged(engine))
        wait_until(lambda at_start=at_start: len(logged(engine)) > at_start, "a prediction in the database")
        running.send_signal(signal.SIGKILL)
        running.communicate()
    is_over.set()
    load_thread.join()
    writer.close()
    last = run_keeper(folder, variables)
    wait_until(lambda: not list(folder.glob("*.spool")), "an empty spool")
    last.communicate()
    assert sorted(map(int, logged(engine))) == list(range(n))
    assert last.returncode == 0
    engine.dispose()


def run_keeper(folder: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "causeway.monitoring.keeper", "--folder", str(folder)],
        cwd=ROOT,
        env=environment(Path(os.environ["BENTOML_HOME"]), **variables),
        stdin=subprocess.PIPE,
    )


def test_a_postgresql_that_is_killed_under_load_has_everything_once_it_is_back(
    folder: Path, postgres: Postgres, registry: CollectorRegistry
) -> None:
    url = postgres.create_database()
    keeping = Keeper(folder, replace(Settings(), database_url=url), ModelMetrics(registry))
    is_over, n = threading.Event(), 0
    writer = Spool(folder)
    is_ending = threading.Event()
    work = threading.Thread(target=keeping.run, args=(is_ending.wait,))

    def load() -> None:
        nonlocal n
        while not is_over.wait(0.005):
            append(writer, *(record(str(n + each)) for each in range(20)))
            n += 20

    load_thread = threading.Thread(target=load)
    keeping.round()  # its chores, which are not what this is about
    load_thread.start()
    work.start()
    wait_until(lambda: (written(registry) or 0) > 0, "a prediction in the database")
    postgres.kill()
    wait_until(lambda: (registry.get_sample_value("causeway_database_errors_total") or 0) >= 2, "errors")
    postgres.start()
    before = written(registry) or 0
    wait_until(lambda: (written(registry) or 0) > before, "a prediction in the database again")
    is_over.set()
    load_thread.join()
    writer.close()
    wait_until(lambda: not list(folder.glob("*.spool")), "an empty spool")
    is_ending.set()
    work.join()
    engine = connect(url)
    assert sorted(map(int, logged(engine))) == list(range(n))
    engine.dispose()


def written(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("causeway_prediction_log_written_total")


def test_a_value_that_a_frame_samples_already_is_not_sampled_again(
    folder: Path, started: Callable[[], Keeper], engine: Engine, registry: CollectorRegistry
) -> None:
    writer, keeping = Spool(folder), started()
    keeping._sampling.factor = 4
    records = tuple(record(str(n)) for n in range(400))
    for factor in (1, 4):
        writer.append([frame(records, factor)], 400, time.time())
    drain(keeping)
    assert len(logged(engine)) == 100 + 400
    assert left_out(registry, "sampled") == 300
    writer.close()
