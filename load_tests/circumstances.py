"""What every result depends on, whatever was measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from causeway.training import provenance
from load_tests.machine import cpu_name

ROOT = Path(__file__).parents[1]


def circumstances(seed: int) -> dict[str, Any]:
    """Values for JSON: commit, processor, cores, versions of the libraries that shape a model, and the seed."""
    return {
        "commit": provenance.commit(ROOT),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "versions": provenance.versions(),
        "seed": seed,
    }
