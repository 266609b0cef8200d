"""Writes the parts of README.md that come from the code: the table of settings.

`python tools/readme.py` rewrites them; with `--check` it only says whether they are true, by its exit code.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- settings: written by `make format` -->\n", "<!-- end of settings -->\n"


def settings_table() -> str:
    """A Markdown table of the CAUSEWAY_* variables, their defaults, and the field docstrings of `Settings`."""
    sys.path.insert(0, str(README.parent))
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


def main() -> int:
    """Runs the command line; the exit code is 1 where `--check` finds README.md out of date."""
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    current = before + BEGIN + settings_table() + END + after
    if "--check" in sys.argv[1:]:
        if current != text:
            print("README.md is out of date; `make format` writes it again")
        return int(current != text)
    README.write_text(current)
    return 0


if __name__ == "__main__":
    sys.exit(main())
