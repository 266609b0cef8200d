"""ONNX Runtime: one input `features`, one output `predictions`, both 2-D float32; on CPU, or by a GPU provider."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

# ONNX Runtime 1.31 uploads usage data unless this is set when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from causeway import errors
from causeway.contract import Array
from causeway.runtime.device import LARGEST_BATCH, DeviceRuntime

INPUT = "features"
OUTPUT = "predictions"
CPU_PROVIDER = "CPUExecutionProvider"
GPU_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


class OnnxRuntime:
    """An ONNX model in memory, on CPU. `run` may be called from several threads at once."""

    file: ClassVar[str] = "model.onnx"
    name = f"onnxruntime {CPU_PROVIDER}"
    device = "cpu"
    lost = None

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._session = _session(path, threads, [CPU_PROVIDER])

    def run(self, X: Array) -> Array:
        """Predictions (n_rows, output width) float32 of X (n_rows, n_features) float32."""
        predictions: Array = self._session.run([OUTPUT], {INPUT: X})[0]
        return predictions

    def close(self) -> None:
        """Its memory is given back once nobody has it any more."""


class GpuSession:
    """An ONNX model of which a GPU provider computes at least a part."""

    def __init__(self, path: Path, threads: int, provider: str, options: dict[str, str]) -> None:
        # Operators that the provider lacks run on the processor; all of them there would be no use of the GPU.
        self._session = _session(path, threads, [(provider, options)])
        assigned = {part.ep_name for part in self._session.get_provider_graph_assignment_info()}
        if provider not in self._session.get_providers() or provider not in assigned:
            raise errors.NoEngine(f"ONNX Runtime gives nothing of the model to {provider}")

    def run_all(self, chunks: Sequence[Array]) -> list[Array]:
        """Of each chunk (n_rows, n_features) its predictions (n_rows, output width)."""
        return [self._session.run([OUTPUT], {INPUT: X})[0] for X in chunks]

    def release(self) -> None:
        """ONNX Runtime keeps its memory as long as the session."""


def open_on_gpu(
    path: Path, provider: str, device: str, *, threads: int = 1, out_of_memory: Callable[[], None] = lambda: None
) -> DeviceRuntime:
    """The model on `device`, `cuda:N`, by one of `GPU_PROVIDERS`. Raises `NoEngine` where that is not there."""
    if provider not in onnxruntime.get_available_providers():
        raise errors.NoEngine(f"this ONNX Runtime has no {provider}")
    onnxruntime.preload_dlls()  # from the packages that torch brings along, where there are such
    options = {"device_id": device.partition(":")[2]}
    if provider == "CUDAExecutionProvider":
        options["use_tf32"] = "0"  # which keeps 10 bits of a mantissa, and not the contract's bound
    if provider == "TensorrtExecutionProvider":
        # TensorRT builds for a span of batch sizes, and for a second and more again where one is outside of it.
        width = _session(path, threads, [CPU_PROVIDER]).get_inputs()[0].shape[1]
        sizes = {"min": 1, "opt": LARGEST_BATCH // 16, "max": LARGEST_BATCH}
        options |= {f"trt_profile_{which}_shapes": f"{INPUT}:{n_rows}x{width}" for which, n_rows in sizes.items()}
    session = GpuSession(path, threads, provider, options)
    return DeviceRuntime(f"onnxruntime {provider} {device}", device, session, out_of_memory=out_of_memory)


def _session(path: Path, threads: int, providers: Sequence[Any]) -> onnxruntime.InferenceSession:
    """Raises `ValueError` where the graph is not for our input and output, and what ONNX Runtime does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised, and logged once a second; a line for each has features
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Else it goes on with fewer providers where one fails, at the start or later, and prints that.
    session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    inputs = {node.name: node for node in session.get_inputs()}
    outputs = {node.name for node in session.get_outputs()}
    if set(inputs) != {INPUT} or OUTPUT not in outputs:
        raise ValueError(f"the graph must take {INPUT!r} and give {OUTPUT!r}, not {set(inputs)} and {outputs}")
    if inputs[INPUT].type != "tensor(float)":
        raise ValueError(f"{INPUT!r} must be tensor(float), not {inputs[INPUT].type}")
    return session
