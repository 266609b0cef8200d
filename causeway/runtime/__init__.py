"""Engines: a version's files to `run(batch)`. One module per engine; `choice` finds the quickest that fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from causeway import errors
from causeway.contract import Array
from causeway.networks import DESCRIPTION_FILE
from causeway.runtime.device import DeviceRuntime, failure, has_driver
from causeway.runtime.onnx import GPU_PROVIDERS, OnnxRuntime, open_on_gpu

MODEL_FILE = OnnxRuntime.file


class Runtime(Protocol):
    """What serving asks of an engine."""

    @property
    def name(self) -> str:
        """The engine, its device and its precision, for people and labels; from a closed set."""

    @property
    def device(self) -> str:
        """`cpu`, or `cuda:N`."""

    @property
    def lost(self) -> str | None:
        """Why its device computes no more in this process; None while it does."""

    def run(self, X: Array) -> Array:
        """Predictions (n_rows, output width) float32 of X (n_rows, n_features) float32."""

    def close(self) -> None:
        """Gives back the memory that it keeps on its device, once no batch is computed; `run` would take it again."""


class Candidate(NamedTuple):
    """An engine that might run a version."""

    name: str
    open: Callable[[], Runtime]
    """Raises `NoEngine` where the machine has not what it needs, `DeviceLost`, or whatever the engine does."""


def candidates(
    folder: Path, *, threads: int = 1, device: str = "cpu", out_of_memory: Callable[[], None] = lambda: None
) -> list[Candidate]:
    """Engines for the version in `folder` on `device`: `cpu`, `cuda` (the first one), `cuda:N`, or `auto` for any.

    Nothing is looked for on a GPU where the device is `cpu` or there is no driver. `out_of_memory` is called when a
    device has no memory for a batch. Raises `NoEngine` where there is no driver and no other device will do.
    """
    path = folder / MODEL_FILE
    on_cpu = Candidate(OnnxRuntime.name, partial(OnnxRuntime, path, threads=threads))
    if device == "cpu":
        return [on_cpu]
    if not has_driver():
        if device != "auto":
            raise errors.NoEngine("this machine has no NVIDIA driver (libcuda.so.1)")
        return [on_cpu]
    gpu = device if ":" in device else "cuda:0"
    openers: dict[str, Callable[[], DeviceRuntime]] = {
        f"torch {gpu}": partial(_open_network, folder, gpu, out_of_memory),
        **{
            f"onnxruntime {provider} {gpu}": partial(
                open_on_gpu, path, provider, gpu, threads=threads, out_of_memory=out_of_memory
            )
            for provider in GPU_PROVIDERS
        },
    }
    on_gpu = [Candidate(name, partial(_open, gpu, opener)) for name, opener in openers.items()]
    return [on_cpu, *on_gpu] if device == "auto" else on_gpu


def open_runtime(folder: Path, *, threads: int = 1, device: str = "cpu") -> Runtime:
    """The first engine for `device` that can be opened; whatever it raises, and `NoEngine` where there is none."""
    reasons = []
    for candidate in candidates(folder, threads=threads, device=device):
        try:
            return candidate.open()
        except errors.NoEngine as exc:
            reasons.append(f"{candidate.name}: {exc.message}")
    raise errors.NoEngine("; ".join(reasons))


def _open(device: str, opener: Callable[[], DeviceRuntime]) -> DeviceRuntime:
    """What `opener` opens on `device`. Raises `DeviceLost` where that is what its error means."""
    try:
        return opener()
    except (errors.NoEngine, errors.DeviceLost):
        raise
    except Exception as exc:
        if failure(exc) != "lost":
            raise
        raise errors.DeviceLost(device, str(exc).partition("\n")[0]) from exc


def _open_network(folder: Path, device: str, out_of_memory: Callable[[], None]) -> DeviceRuntime:
    if not (folder / DESCRIPTION_FILE).exists():
        raise errors.NoEngine(f"the version has no {DESCRIPTION_FILE}, which neural families save")
    try:
        from causeway.runtime.network import open_network  # takes a second and more, and needs a lot
    except ModuleNotFoundError as exc:
        raise errors.NoEngine(f"{exc.name} is not installed") from exc
    return open_network(folder, device, out_of_memory=out_of_memory)
