"""The files of a report: all there, the same every time, small enough to keep, and true to the result."""

from __future__ import annotations

import csv
import struct
from pathlib import Path

import pytest
from msgspec.structs import replace

from load_tests.comparison import Comparison, compare
from load_tests.report import sheet, write, write_comparison
from load_tests.result import Repeat, Result
from tests.load_tests import stages
from tests.load_tests.report.pages import cut_short, limited, ramp, spike

MOST_BYTES = 60_000
"""Of a picture in the README."""


@pytest.fixture(scope="module")
def compared() -> tuple[list[Result], Comparison]:
    results = [ramp(), ramp("$other$")]
    return results, compare(results)


def pixels(png: bytes) -> tuple[int, int]:
    """Width and height, as the header has them."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("result", [ramp(), limited(), spike()], ids=lambda result: result.name)
def test_a_report_is_a_page_a_picture_a_sheet_and_the_result(result: Result, tmp_path: Path) -> None:
    written = write(result, tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["report.html", "report.png", "stages.csv", "result.json"]
    _, picture, lines, kept = written
    assert pixels(picture.read_bytes()) == (880, 495)
    assert picture.stat().st_size <= MOST_BYTES
    assert len(lines.read_text().splitlines()) == 1 + sum(len(repeat.stages) for repeat in result.repeats)
    assert Result.load(kept) == result


def test_a_comparison_is_a_page_a_picture_and_a_sheet(
    compared: tuple[list[Result], Comparison], tmp_path: Path
) -> None:
    page, picture, lines = write_comparison(*compared, tmp_path)
    assert "$other$" in page.read_text()
    assert pixels(picture.read_bytes()) == (880, 495)
    assert picture.stat().st_size <= MOST_BYTES
    assert list(csv.DictReader(lines.read_text().splitlines()))


def test_the_same_result_makes_the_same_bytes(tmp_path: Path) -> None:
    first, again = (write(spike(), tmp_path / name) for name in ("first", "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_a_test_that_ended_before_its_first_stage_has_a_report(tmp_path: Path) -> None:
    assert all(path.exists() for path in write(cut_short(), tmp_path))


def test_the_sheet_holds_every_figure_as_it_was_measured() -> None:
    result = ramp()
    lines = list(csv.DictReader(sheet.stages(result).splitlines()))
    told = [stage for repeat in result.repeats for stage in repeat.stages]
    for line, stage in zip(lines, told, strict=True):
        assert stage.latency
        assert float(line["rate"]) == stage.rate
        assert int(line["right"]) == stage.right
        assert float(line["goodput"]) == stage.goodput
        assert float(line["latency.p999_ms"]) == stage.latency.p999_ms
        assert float(line["usage.busiest_generator"]) == stage.usage.busiest_generator
        assert line["server_side.refusals.overloaded"] == ("9.0" if stage.refused else "")
    assert [line["repeat"] for line in lines] == [str(n) for n in (1, 2, 3) for _ in stages.FACTORS]


def test_a_stage_without_a_right_answer_has_empty_cells() -> None:
    told = replace(ramp(), repeats=[Repeat([stages.stage(), stages.stage(p99_ms=None)], None, None, "", "none")])
    with_latency, without = csv.DictReader(sheet.stages(told).splitlines())
    assert with_latency["latency.p99_ms"] == "20.0"
    assert without["latency.p99_ms"] == ""


def test_the_sheet_of_a_comparison_holds_spreads_and_ratios(compared: tuple[list[Result], Comparison]) -> None:
    _, comparison = compared
    lines = list(csv.DictReader(sheet.comparison(comparison).splitlines()))
    ratios = {line["figure"]: line["ratio"] for line in lines if line["result"] == "$other$" and line["ratio"]}
    assert ratios == {each.figure: str(each.ratio) for each in comparison.differences}
    first = [line for line in lines if line["result"] == "default"]
    assert not any(line["ratio"] for line in first)
    assert {line["n"] for line in first} >= {"3"}
