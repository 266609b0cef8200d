"""Networks are built from a description, and come back from their files as they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from causeway import networks
from causeway.networks import DESCRIPTION_FILE, WEIGHTS_FILE, Network
from causeway.networks.tabular import TabularNetwork
from tests.conftest import ROOT

KINDS = [
    Network("ft_transformer", 4, {"d_token": 8, "n_blocks": 2, "n_heads": 2, "d_hidden": 12}),
    Network("residual", 4, {"d_main": 8, "n_blocks": 2, "d_hidden": 12}),
]
ALL = [msgspec.structs.replace(kind, precision=precision) for kind in KINDS for precision in ("fp32", "fp16")]
X = np.random.default_rng(0).gamma(1, 50, (300, 4)).astype(np.float32)

each = pytest.mark.parametrize("description", ALL, ids=lambda d: f"{d.kind}-{d.precision}")


def network(description: Network) -> TabularNetwork:
    torch.manual_seed(0)
    module = networks.build(description)
    module.normalise.fit(X)
    return module.eval()


def predict(module: TabularNetwork, X: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return module(torch.from_numpy(X)).numpy()


def save(folder: Path, description: Network) -> None:
    for name, content in networks.files(description, network(description)).items():
        (folder / name).write_bytes(content)


@each
def test_a_network_gives_a_probability_a_row_in_32_bits(description: Network) -> None:
    predictions = predict(network(description), X)
    assert predictions.shape == (300, 1)
    assert predictions.dtype == np.float32
    assert predictions.std() > 0
    assert ((predictions > 0) & (predictions < 1)).all()


@each
def test_a_network_comes_back_from_its_files_as_it_was(description: Network, tmp_path: Path) -> None:
    save(tmp_path, description)
    loaded, module = networks.load(tmp_path)
    assert loaded == description
    assert not module.training
    np.testing.assert_array_equal(predict(module, X), predict(network(description), X))


@each
def test_the_same_weights_give_the_same_bytes(description: Network) -> None:
    assert networks.files(description, network(description)) == networks.files(description, network(description))


@each
def test_a_row_gets_the_same_prediction_alone_and_in_company(description: Network) -> None:
    module = network(description)
    alone = np.concatenate([predict(module, row[np.newaxis]) for row in X[:50]])
    tolerance = 1e-5 if description.precision == "fp32" else 2e-3
    np.testing.assert_allclose(alone, predict(module, X)[:50], rtol=0, atol=tolerance)


@each
def test_what_lies_far_outside_of_what_was_seen_still_gets_a_probability(description: Network) -> None:
    largest = np.finfo(np.float32).max
    predictions = predict(network(description), np.array([[-largest] * 4, [largest] * 4], dtype=np.float32))
    assert ((predictions > 0) & (predictions < 1)).all()


def test_half_precision_predicts_nearly_the_same() -> None:
    for description in KINDS:
        full = network(description)
        half = networks.build(msgspec.structs.replace(description, precision="fp16"))
        half.load_state_dict(full.state_dict())
        np.testing.assert_allclose(predict(half.eval(), X), predict(full, X), rtol=0, atol=2e-3)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save(tmp_path, KINDS[0])
    larger = msgspec.structs.replace(KINDS[0], sizes=KINDS[0].sizes | {"n_blocks": 3})
    (tmp_path / DESCRIPTION_FILE).write_bytes(larger.to_json())
    with pytest.raises(RuntimeError, match=r"Missing key.*body\.blocks\.2"):
        networks.load(tmp_path)


def test_a_description_with_anything_unknown_is_refused(tmp_path: Path) -> None:
    save(tmp_path, KINDS[0])
    (tmp_path / DESCRIPTION_FILE).write_bytes(KINDS[0].to_json().replace(b"ft_transformer", b"pickle"))
    with pytest.raises(msgspec.ValidationError, match=r"kind"):
        networks.load(tmp_path)
    with pytest.raises(TypeError, match="d_nothing"):
        networks.build(msgspec.structs.replace(KINDS[1], sizes=KINDS[1].sizes | {"d_nothing": 1}))


def test_weights_are_no_pickle(tmp_path: Path) -> None:
    save(tmp_path, KINDS[1])
    header = (tmp_path / WEIGHTS_FILE).read_bytes()[8:]
    assert header.startswith(b'{"body')


def test_a_description_is_read_without_torch() -> None:
    code = "import sys, causeway.networks, causeway.training.fitting; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
