"""Where a version comes from: commit and library versions."""

from __future__ import annotations

import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("bentoml", "numpy", "onnx", "onnxruntime", "pandas", "safetensors", "scikit-learn", "skl2onnx", "torch")


def commit(folder: Path) -> str:
    """The git commit of `folder`, with `-dirty` where files differ from it or are new; `unknown` outside of git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Python's version and those of the libraries that shape a model, of which not all need be installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
