"""Where a version comes from: commit and library versions."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("bentoml", "numpy", "onnx", "onnxruntime", "pandas", "scikit-learn", "skl2onnx")


def commit(folder: Path) -> str:
    """The git commit of `folder`, with `-dirty` where files differ from it; `unknown` outside of git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


def versions() -> dict[str, str]:
    """Python's version and those of the libraries that shape a model."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
