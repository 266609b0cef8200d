"""Imports point one way, and each room takes along only what its work needs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HOME, ROOT, environment

LAYERS = [
    {"console", "errors", "garbage", "tag"},
    {"contract", "cost", "door", "logs", "settings", "state", "tracing"},
    {"batching", "cache", "codec", "drift", "networks", "quality", "roll_call", "routing", "state_file", "store"},
    {"admission", "decoding", "runtime"},
    {"version"},
    {"monitoring", "shadow", "training", "variant"},
    {"deployment", "figures", "optimise"},
    {"experiments", "judge", "operations"},
    {"asgi", "commands", "rollout"},
    {"admin", "cli", "drifts", "feedback", "protocol"},
    {"fast_path", "openapi"},
    {"rest"},
    {"front", "service"},
]
"""Each may import those above it, never one beside it or below."""


def room(module: str) -> str:
    return module.removeprefix("causeway.").split(".")[0]


def imported(file: Path) -> set[str]:
    """The rooms of causeway that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "causeway" else {node.module}
            )
    return {room(name) for name in names if name.startswith("causeway.")}


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_imports_point_one_way(layer: int) -> None:
    for name in LAYERS[layer]:
        file = ROOT / "service.py" if name == "service" else ROOT / "causeway" / f"{name}.py"
        for source in [file] if file.exists() else sorted(file.with_suffix("").glob("*.py")):
            for other in imported(source) - {name}:
                assert level(other) < layer or name == "service", f"{source.name} imports {other}"


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("models.gradient_boosting", {"bentoml"}),
        ("causeway.drift.reference", {"bentoml", "onnxruntime", "sklearn"}),
        ("causeway.codec", {"bentoml", "onnxruntime", "sklearn"}),
        ("causeway.batching", {"bentoml", "onnxruntime", "sklearn"}),
        ("causeway.decoding", {"bentoml", "onnxruntime", "sklearn", "prometheus_client"}),
        ("causeway.client", {"bentoml", "onnxruntime", "sklearn", "msgspec"}),
        (
            "service",
            {"sklearn", "pandas", "scipy", "onnx", "skl2onnx", "torch", "safetensors", "causeway.training", "models"},
        ),
        ("models.transformer", {"bentoml", "torch"}),
    ],
)
def test_a_room_takes_along_only_what_it_needs(module: str, never: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted({never!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(HOME), capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
