"""Writes the parts of README.md that come from elsewhere: the table of settings, and tables of what was measured.

`python tools/readme.py` rewrites them; with `--check` it only says whether they are true, by its exit code. (`make
bench` writes its own.)
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
LOAD_TESTS = ("reference", "dear")
"""Folders in load_tests/results/, as `python -m load_tests --out FOLDER` leaves them."""
STUDIES = ("drift", "quality", "experiments", "truth", "devices", "variants")
"""Files in load_tests/studies/, each with its result in load_tests/results/."""


def settings_table() -> str:
    """A Markdown table of the CAUSEWAY_* variables, their defaults, and the field docstrings of `Settings`."""
    from causeway.settings import Settings

    (definition,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(definition, ast.ClassDef)
    meanings = {}
    for field, docstring in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(docstring, ast.Expr):
            meanings[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(docstring.value)).split())
    rows = [
        f"| `CAUSEWAY_{field.name.upper()}` | `{field.default}` | {meanings[field.name]} |\n"
        for field in dataclasses.fields(Settings)
    ]
    return "| variable | default | meaning |\n|---|---|---|\n" + "".join(rows)


def study_tables(name: str) -> str:
    """What `python -m load_tests.studies.NAME` found when it was last run."""
    markdown: Callable[[object], str] = import_module(f"load_tests.studies.{name}").markdown
    return markdown(json.loads((ROOT / f"load_tests/results/{name}.json").read_text()))


def load_reports() -> str:
    """What the kept load tests say, with their pictures and how to measure them again."""
    from load_tests.result import Result

    told = []
    for name in LOAD_TESTS:
        folder = f"load_tests/results/{name}"
        result = Result.load(ROOT / folder / "result.json")
        heading = f"**{result.name}** (`{result.options.command}`): {result.says}"
        told.append(f"{heading}\n\n![{result.name}: goodput and latency against offered load]({folder}/report.png)\n")
    return "\n".join(told)


def parts() -> Iterator[tuple[str, str, str]]:
    """The line before each part, the part, and the line after it."""
    yield "<!-- settings: written by `make format` -->\n", settings_table(), "<!-- end of settings -->\n"
    yield "<!-- load: written by `make format` -->\n", load_reports(), "<!-- end of load -->\n"
    for name in STUDIES:
        yield f"<!-- {name}: written by `make format` -->\n", study_tables(name), f"<!-- end of {name} -->\n"


def main() -> int:
    """Runs the command line; the exit code is 1 where `--check` finds README.md out of date."""
    sys.path.insert(0, str(ROOT))
    text = current = README.read_text()
    for begin, part, end in parts():
        before, rest = current.split(begin)
        current = before + begin + part + end + rest.split(end)[1]
    if "--check" in sys.argv[1:]:
        if current != text:
            print("README.md is out of date; `make format` writes it again")
        return int(current != text)
    README.write_text(current)
    return 0


if __name__ == "__main__":
    sys.exit(main())
