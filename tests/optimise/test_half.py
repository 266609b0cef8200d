"""The files that torch runs on a GPU, with weights in 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from causeway import networks
from causeway.optimise.half import network_files
from models import mlp
from tests.optimise import nets

torch = pytest.importorskip("torch")


def predictions(folder: Path, files: dict[str, bytes]) -> np.ndarray:
    """Of `nets.X`, by the network in `files`."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    _, module = networks.load(folder)
    with torch.inference_mode():
        return module(torch.from_numpy(nets.X)).numpy()


def test_a_network_s_weights_are_halved_and_its_normalisation_is_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    description = networks.Network("residual", nets.N_FEATURES, mlp.Params().sizes)
    module = networks.build(description)
    module.normalise.fit(nets.X)
    files = networks.files(description, module)
    expected = predictions(tmp_path, files)
    halved = network_files(tmp_path)
    assert networks.Network.from_json(halved["network.json"]).precision == "fp16"
    assert len(halved["weights.safetensors"]) < 0.7 * len(files["weights.safetensors"])
    got = predictions(tmp_path, halved)
    assert expected.std() > 0.01
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-3)
