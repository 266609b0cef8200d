"""Training tables from CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from causeway.errors import TableRefused


def read(path: Path) -> pd.DataFrame:
    """The table in a .parquet or .csv file. Raises `TableRefused` where it is neither, or cannot be read."""
    if not path.is_file():
        raise TableRefused(f"There is no file {path}; give the path of a .parquet or .csv file with --data")
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {".parquet": pd.read_parquet, ".csv": pd.read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise TableRefused(f"{path.name} is neither .parquet nor .csv; convert it to one of them")
    try:
        return reader(path)
    except Exception as exc:
        # The readers raise errors of their own, of pyarrow, and of the operating system.
        raise TableRefused(f"{path.name} cannot be read: {exc}") from exc
