"""A version serves if it is whole, and is refused with the reason otherwise."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import onnxruntime
import pytest

from causeway import errors, store
from causeway.contract import Array, Contract, Output
from causeway.runtime import MODEL_FILE, Candidate, Runtime
from causeway.runtime.device import has_driver
from causeway.runtime.network import open_network
from causeway.runtime.onnx import OnnxRuntime
from causeway.training import sklearn_to_onnx
from causeway.version import DEAR_S, FILES, NETWORK_FILES, ModelVersion, measure
from tests import tiny
from tests.conftest import ROOT, environment


def test_a_whole_version_predicts_what_the_trained_model_predicts() -> None:
    version = ModelVersion.load(tiny.saved())
    np.testing.assert_allclose(version.predict(tiny.X)[:, 0], tiny.MODEL.predict_proba(tiny.X)[:, 1], atol=1e-5)
    assert version.contract == tiny.CONTRACT
    assert version.example == tiny.SAMPLES.features[:2]


@pytest.mark.parametrize("file", FILES)
def test_a_version_without_one_of_its_files_is_refused(file: str) -> None:
    with pytest.raises(errors.DigestMismatch, match=file):
        ModelVersion.load(tiny.saved(**{file.replace(".", "_"): None}))


@pytest.mark.parametrize("file", FILES)
def test_a_version_with_a_changed_file_is_refused(file: str) -> None:
    stored = tiny.saved()
    with (stored.path / file).open("ab") as handle:
        handle.write(b" ")
    with pytest.raises(errors.DigestMismatch, match=file):
        ModelVersion.load(stored)


@pytest.mark.parametrize("file", NETWORK_FILES)
def test_a_network_without_one_of_its_files_is_refused(file: str) -> None:
    with pytest.raises(errors.DigestMismatch, match=f"{file} has no digest"):
        ModelVersion.load(tiny.saved_network(**{file.replace(".", "_"): None}))


@pytest.mark.parametrize("file", NETWORK_FILES)
def test_a_network_with_a_changed_file_is_refused_also_on_a_cpu(file: str) -> None:
    stored = tiny.saved_network()
    with (stored.path / file).open("ab") as handle:
        handle.write(b" ")
    with pytest.raises(errors.DigestMismatch, match=f"{file} is not what was saved"):
        ModelVersion.load(stored, device="cpu")


@pytest.mark.parametrize("file", NETWORK_FILES)
def test_a_network_that_was_put_beside_a_version_later_is_refused(file: str) -> None:
    stored = tiny.saved()
    (stored.path / file).write_bytes(tiny.network_files()[file])
    with pytest.raises(errors.DigestMismatch, match=r"network\.json has no digest"):
        ModelVersion.load(stored)


def samples(**changes: object) -> bytes:
    return msgspec.json.encode({**msgspec.structs.asdict(tiny.SAMPLES), **changes})


@pytest.mark.parametrize(
    ("changed", "refusal", "words"),
    [
        ({"model_onnx": b"not a graph"}, errors.EngineFailed, "the engine cannot run model.onnx"),
        ({"model_onnx": sklearn_to_onnx(tiny.MODEL, 2)[:-20]}, errors.EngineFailed, "the engine cannot run"),
        ({"contract_json": b"{"}, errors.ContractBroken, "contract.json cannot be read"),
        (
            {"contract_json": b'{"features": [], "output": {"name": "p"}}'},
            errors.ContractBroken,
            "at least one feature",
        ),
        (
            {
                "contract_json": tiny.CONTRACT.to_json()
                .replace(b'"width"', b'"w"')
                .replace(b'"minimum": -5', b'"minimum": 9')
            },
            errors.ContractBroken,
            "minimum and maximum must be ordered",
        ),
        (
            {"contract_json": tiny.CONTRACT.to_json().replace(b'"maximum": 5', b'"maximum": -4')},
            errors.ContractBroken,
            "its own samples are outside the contract",
        ),
        (
            {"contract_json": tiny.CONTRACT.to_json().replace(b'"name": "p"', b'"name": "p", "width": 2')},
            errors.ContractBroken,
            "its predictions have shape",
        ),
        (
            {"contract_json": tiny.CONTRACT.to_json().replace(b'"name": "p"', b'"name": "p", "maximum": 0.01')},
            errors.ContractBroken,
            "it predicts outside 0 to 0.01",
        ),
        ({"samples_json": b"[]"}, errors.ContractBroken, "samples.json cannot be read"),
        ({"samples_json": samples(features=[])}, errors.ContractBroken, "its own samples are outside the contract"),
        ({"samples_json": samples(predictions=[[0.5]] * 8)}, errors.SamplesDiffer, "its samples differ"),
        ({"samples_json": samples(predictions=[[0.5]])}, errors.ContractBroken, "its predictions have shape"),
    ],
)
def test_a_version_that_does_not_hold_is_refused_with_the_reason(
    changed: dict[str, bytes], refusal: type[errors.VersionRefused], words: str
) -> None:
    stored = tiny.saved(**changed)
    with pytest.raises(refusal, match=words) as refused:
        ModelVersion.load(stored)
    assert refused.value.tag == stored.tag


@pytest.mark.parametrize("n_rows", [1, 2, 7, 50, 51, 128, 499])
def test_a_prediction_does_not_depend_on_the_rows_beside_it(n_rows: int, home: Path) -> None:
    version = ModelVersion.load(store.find("fraud:latest"))
    X = np.resize(version.contract.from_features(version.example), (500, 15)).copy()
    X[:, 0] += np.arange(500, dtype=np.float32)
    together = version.predict(X)
    apart = np.concatenate([version.predict(X[start : start + n_rows]) for start in range(0, 500, n_rows)])
    np.testing.assert_array_equal(apart, together)
    assert version.batch_difference == 0


def test_a_model_that_looks_at_the_rows_beside_is_refused() -> None:
    engine = onnxruntime.InferenceSession(tiny.LESS_THE_MEAN)
    together = engine.run(None, {"features": tiny.X[:8]})[0].tolist()
    stored = tiny.saved(model_onnx=tiny.LESS_THE_MEAN, samples_json=samples(predictions=together))
    with pytest.raises(errors.BatchDependent, match="with the rows beside them"):
        ModelVersion.load(stored)


def test_rows_beside_may_change_a_prediction_by_no_more_than_the_contract_allows() -> None:
    engine = onnxruntime.InferenceSession(tiny.LESS_THE_MEAN)
    together = engine.run(None, {"features": tiny.X[:8]})[0].tolist()
    loose = Contract(tiny.CONTRACT.features, Output("p", tolerance=0.5))
    stored = tiny.saved(
        model_onnx=tiny.LESS_THE_MEAN, samples_json=samples(predictions=together), contract_json=loose.to_json()
    )
    assert 1e-5 < ModelVersion.load(stored).batch_difference < 0.5


@pytest.mark.skipif(has_driver(), reason="there is an NVIDIA driver")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_the_reason_for_a_refusal(device: str) -> None:
    with pytest.raises(errors.EngineFailed, match=f"no engine for {device}: this machine has no NVIDIA driver"):
        ModelVersion.load(tiny.saved_network(), device=device)


def test_a_version_says_which_engines_it_was_chosen_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Runtime:
        raise errors.NoEngine("torch sees 0 CUDA devices")

    def some(folder: Path, **_: object) -> list[Candidate]:
        return [
            Candidate("onnxruntime", partial(OnnxRuntime, folder / MODEL_FILE)),
            Candidate("torch", partial(open_network, folder)),
            Candidate("torch cuda:0", missing),
        ]

    monkeypatch.setattr("causeway.version.candidates", some)
    version = ModelVersion.load(tiny.saved_network(), device="auto")
    assert version.engines.keys() == {"onnxruntime", "torch", "torch cuda:0"}
    assert version.engines["torch cuda:0"] == "left out: torch sees 0 CUDA devices"
    assert version.runtime.device == "cpu"
    assert len(version.predict(tiny.X)) == len(tiny.X)


class Timed:
    """An engine that takes `fixed_s` a batch and `per_row_s` a row, on a clock of its own."""

    name, device, lost = "timed", "cuda:0", None

    def __init__(self, fixed_s: float, per_row_s: float) -> None:
        self.fixed_s, self.per_row_s = fixed_s, per_row_s
        self.now = 0.0
        self.n_rows = 0

    def run(self, X: Array) -> Array:
        self.now += self.fixed_s + self.per_row_s * len(X)
        self.n_rows += len(X)
        return X[:, :1]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("fixed_s", "per_row_s"),
    [
        (5e-6, 20e-6),
        (0.0, 2e-6),
        (80e-6, 0.02e-6),
        (3e-3, 1e-6),
        (2 * DEAR_S, 0.0),
        (0.0, 2 * DEAR_S),
        (DEAR_S, DEAR_S),
    ],
)
def test_the_cost_is_measured_whether_a_batch_or_a_row_costs(
    fixed_s: float, per_row_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Timed(fixed_s, per_row_s)
    monkeypatch.setattr("causeway.version.time", SimpleNamespace(perf_counter=lambda: engine.now))
    cost = measure(engine, tiny.X)
    assert (cost.fixed_s, cost.per_unit_s) == pytest.approx((fixed_s, per_row_s), abs=1e-12)
    if per_row_s >= DEAR_S:
        assert engine.n_rows < 10


def test_the_measured_cost_grows_with_the_rows() -> None:
    cost = measure(ModelVersion.load(tiny.saved()).runtime, tiny.X)
    assert 0 <= cost.seconds(1) <= cost.seconds(1000)
    assert cost.seconds(1) > 0


def test_serving_opens_no_pickle(home: Path) -> None:
    code = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(args) if event == "pickle.find_class" else None)
import pickle
pickle.loads(pickle.dumps(ValueError()))
assert opened, "the hook must see a pickle"
opened.clear()
import service
instance = service.Causeway()
assert service.deployment.is_ready
version = service.deployment.champion.version
version.predict(version.contract.from_features(version.example))
assert not opened, opened
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
