"""The service on a GPU that breaks, for tests: `bentoml serve tests.broken_device:Causeway`.

A row with a = 5 poisons the context of the process. After that there is no GPU any more, which a file in BROKEN says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

from causeway import errors, runtime
from causeway.contract import Array
from causeway.runtime import Candidate
from causeway.runtime.device import DeviceRuntime
from causeway.runtime.onnx import OnnxRuntime
from service import Causeway

__all__ = ["Causeway"]

BROKEN = Path(os.environ["BROKEN"])


class Gpu:
    """Predicts as the processor does."""

    def __init__(self, path: Path) -> None:
        self._on_cpu = OnnxRuntime(path)

    def run_all(self, chunks: Sequence[Array]) -> list[Array]:
        if any((chunk[:, 0] == 5).any() for chunk in chunks):
            BROKEN.touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [self._on_cpu.run(chunk) for chunk in chunks]

    def release(self) -> None:
        pass


def open_gpu(path: Path, out_of_memory: Callable[[], None]) -> DeviceRuntime:
    if BROKEN.exists():
        raise errors.NoEngine("torch sees 0 CUDA devices")
    return DeviceRuntime("torch cuda:0 fp32", "cuda:0", Gpu(path), out_of_memory=out_of_memory)


def candidates(folder: Path, *, threads: int, device: str, out_of_memory: Callable[[], None]) -> list[Candidate]:
    """The GPU alone until it is broken, so that it is chosen; then what `auto` has beside it as well."""
    gpu = Candidate("torch cuda:0", partial(open_gpu, folder / runtime.MODEL_FILE, out_of_memory))
    others = runtime.candidates(folder, threads=threads) if device == "auto" and BROKEN.exists() else []
    return [*others, gpu]


patch("causeway.version.candidates", candidates).start()
patch("causeway.deployment.RESTART_S", 0.0).start()
