"""The use case: one file per model family, all with the same surface, found by its file name.

A family has NAME (its model's name in the store), CONTRACT, a frozen dataclass Params, and the functions of `Family`.
Where it needs them, it also has

- `from_table(table, label, source)`, where a user's table needs more than the contract's columns; it takes `time` and
  `entity` too, the names of columns, where `--time` and `--entity` are to work;
- `to_files(trained)`, files by name to be saved beside the artifact;
- `NEEDS_TORCH = True`, where it is a network that imports torch only inside of its functions, so that it can be listed,
  and its contract read, where there is no torch;
- `NEEDS_TEACHER = True`, where it learns from `Dataset.teacher_scores`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from contextlib import suppress
from types import ModuleType
from typing import Any, Protocol, cast

import pandas as pd

from causeway.contract import Contract
from causeway.errors import TableRefused, UnknownFamily
from causeway.tag import NAME_RULE, is_name
from causeway.training import Dataset, Trained

WITHOUT_TORCH = " without torch, which it is made of; run `make setup-neural`"

SURFACE = ("NAME", "CONTRACT", "Params", "default_data", "train", "to_artifact")


class Family(Protocol):
    """What a file in models/ offers."""

    __name__: str
    __doc__: str | None
    NAME: str
    CONTRACT: Contract
    Params: type[Any]

    @staticmethod
    def default_data(seed: int) -> Dataset:
        """The rows to train on where the user brings none."""

    @staticmethod
    def train(data: Dataset, params: Any, seed: int) -> Trained:
        """The model fitted on `data`; the same seed gives the same model."""

    @staticmethod
    def to_artifact(trained: Trained) -> bytes:
        """The model as ONNX bytes, input `features`, output `predictions`."""


def family(name: str) -> Family:
    """The family in models/`name`.py. Raises `UnknownFamily`."""
    if name not in _files():
        raise UnknownFamily(name, families())
    try:
        module = importlib.import_module(f"models.{name}")
    except Exception as exc:
        if isinstance(exc, ModuleNotFoundError) and exc.name == "torch":
            raise UnknownFamily(name, families(), WITHOUT_TORCH) from exc
        raise UnknownFamily(name, families(), f" (models/{name}.py cannot be imported: {exc})") from exc
    missing = _missing(module)
    if missing:
        raise UnknownFamily(name, families(), f" (models/{name}.py lacks {', '.join(missing)})")
    if _lacks_torch(module):
        raise UnknownFamily(name, families(), WITHOUT_TORCH)
    if not is_name(module.NAME):
        raise UnknownFamily(name, families(), f" (models/{name}.py has NAME = {module.NAME!r}, not {NAME_RULE})")
    return cast(Family, module)


def families() -> list[str]:
    """Names of all files in models/ that are families, can be imported, and have torch if they need it."""
    found = []
    for name in _files():
        # A file that cannot be imported is told about when it is asked for by name.
        with suppress(Exception):
            module = importlib.import_module(f"models.{name}")
            if not _missing(module) and not _lacks_torch(module):
                found.append(name)
    return found


def needs_teacher(family: Family) -> bool:
    """Whether it learns from another model's scores."""
    return getattr(family, "NEEDS_TEACHER", False)


def to_files(family: Family, trained: Trained) -> dict[str, bytes]:
    """What the family saves beside its artifact, by name; most families nothing."""
    own = getattr(family, "to_files", None)
    return own(trained) if own is not None else {}


def dataset(family: Family, table: pd.DataFrame, label: str, source: str, **columns: str) -> Dataset:
    """The user's `table` as the family's dataset; `columns` name its `time` and `entity`. Raises `TableRefused`."""
    missing = [name for name in columns.values() if name not in table.columns]
    if missing:
        raise TableRefused(f"{source} lacks the column {' and '.join(missing)}", missing=missing)
    from_table = getattr(family, "from_table", None)
    if from_table is not None:
        return cast(Dataset, from_table(table, label, source, **columns))
    return Dataset.from_table(family.CONTRACT, table, label, source=source, **columns)


def _files() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _missing(module: ModuleType) -> list[str]:
    return [part for part in SURFACE if not hasattr(module, part)]


def _lacks_torch(module: ModuleType) -> bool:
    return getattr(module, "NEEDS_TORCH", False) and importlib.util.find_spec("torch") is None
