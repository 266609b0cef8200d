"""Training tables are read from CSV and Parquet, and refused in words."""

from pathlib import Path

import pandas as pd
import pytest

from causeway.errors import TableRefused
from causeway.training import tables

TABLE = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})


def test_csv_and_parquet_give_the_same_table(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    TABLE.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(tables.read(tmp_path / "t.csv"), TABLE)
    pd.testing.assert_frame_equal(tables.read(tmp_path / "t.parquet"), TABLE)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", None, "There is no file"),
        ("t.xlsx", b"x", "neither .parquet nor .csv"),
        ("t.csv", b"", "t.csv cannot be read"),
        ("t.parquet", b"not parquet", "t.parquet cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TableRefused, match=words):
        tables.read(tmp_path / name)
