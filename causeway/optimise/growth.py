"""`python -m causeway.optimise.growth FOLDER N_FEATURES BATCH...`: what loading and running a model takes, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from causeway.monitoring.process import resident_bytes
from causeway.runtime import open_runtime


def main() -> None:
    """Prints them."""
    folder, n_features, *batches = sys.argv[1:]
    before = resident_bytes()
    runtime = open_runtime(Path(folder))
    for batch in batches:
        runtime.run(np.zeros((int(batch), int(n_features)), dtype=np.float32))
    print(resident_bytes() - before)


if __name__ == "__main__":
    main()
