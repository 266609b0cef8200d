"""What `causeway optimise` makes of saved versions, and which of its variants earn their place.

`python -m load_tests.studies.variants TAG ...`, with `--data FILE --label COLUMN` where they were trained on a table,
takes minutes for each. It prints the README's section and writes results/variants.json, and of the first version
results/variants.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from causeway.optimise.cells import quality_cells
from causeway.optimise.study import PARENT, Judged
from load_tests.circumstances import ROOT
from load_tests.report.words import number

RESULT = ROOT / "load_tests/results/variants.json"
PICTURE = "load_tests/results/variants.png"
QUALITY = ("AP", "AUC ROC", "ECE", "difference", "kB", "memory MB")
ONE, MANY = 1, 64
"""Rows a call, of which the table tells."""

Result = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs it for each version, prints what came out and keeps it."""
    parser = argparse.ArgumentParser(description="Variants of saved versions.")
    parser.add_argument("tags", nargs="+", metavar="TAG")
    parser.add_argument("--data", help="the table that they were trained on, if one was given")
    parser.add_argument("--label", help="its column")
    args = parser.parse_args(argv)
    data = ["--data", args.data, "--label", args.label] if args.data else []
    results: list[Result] = []
    for tag in args.tags:
        picture = [] if results else ["--plot", str(ROOT / PICTURE)]
        command = [sys.executable, "-m", "causeway", "optimise", tag, "--json", *data, *picture]
        results.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results))


def markdown(results: Result | Sequence[Result]) -> str:
    """The README's section: a table of each version, and the picture of the first; also of one `causeway optimise`."""
    several = [results] if isinstance(results, Mapping) else results
    alt = f"What each variant of {several[0]['parent']} loses of average precision, over its speed"
    return "\n\n".join([*map(of_version, several), f"![{alt}]({PICTURE})\n"])


def of_version(result: Result) -> str:
    """What was measured, of which version and on what, and what became of each variant."""
    heads = ["variant", *QUALITY, f"p50 / p99 ms at {ONE}", f"rows/s at {MANY}", ""]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    judged = msgspec.convert(result["variants"], list[Judged])
    lines += [f"| {' | '.join(_cells(each))} |" for each in judged]
    return (
        f"**{result['family']}** (`{result['parent']}`, on {result['data']}; one thread of {result['cpu']}, commit "
        f"{result['commit'][:7]}):\n\n" + "\n".join(lines)
    )


def _cells(judged: Judged) -> list[str]:
    if judged.figures is None:
        return [judged.name, *[""] * (len(QUALITY) + 2), _verdict(judged)]
    quality = quality_cells(judged.figures)
    speeds = {speed.batch: speed for speed in judged.figures.speeds}
    one, many = speeds[ONE], speeds[MANY]
    return [
        judged.name,
        *(quality[title] for title in QUALITY),
        f"{number(one.p50_ms)} / {number(one.p99_ms)}",
        number(many.rows_per_second),
        _verdict(judged),
    ]


def _verdict(judged: Judged) -> str:
    if judged.name == PARENT:
        return "the version itself"
    if judged.tag is not None:
        return "saved"
    return f"refused: {'; '.join(judged.reasons)}" if judged.reasons else "passes"


if __name__ == "__main__":
    main()
