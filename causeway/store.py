"""Where model versions live: the only module that talks to BentoML's model store.

A version is an immutable tag `name:version`. Its metadata holds the SHA-256 of every file, which tells a damaged
version from a whole one; it does not protect against somebody who may write to the store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import bentoml
from bentoml._internal.models import ModelStore  # bentoml.models knows one store: in a Bento, that of the Bento
from bentoml.exceptions import BentoMLException, NotFound

from causeway import errors
from causeway.tag import is_name


@dataclass(frozen=True)
class StoredVersion:
    """A version as it lies in the store: its tag, its folder, its metadata and its labels."""

    tag: str
    path: Path
    metadata: Mapping[str, Any]
    created: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """What its files take."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    @property
    def average_precision(self) -> float | None:
        """On the held-out period, as training measured it; None where it did not."""
        quality = self.metadata.get("quality")
        return quality.get("average_precision") if isinstance(quality, Mapping) else None

    def has(self, file: str) -> bool:
        """Whether `file` was saved, or lies there all the same."""
        digests = self.metadata.get("files")
        return (isinstance(digests, Mapping) and file in digests) or (self.path / file).exists()

    def read(self, file: str) -> bytes:
        """The bytes of `file`. Raises `DigestMismatch` where they are not what was saved."""
        digests = self.metadata.get("files")
        recorded = digests.get(file) if isinstance(digests, Mapping) else None
        if recorded is None:
            raise errors.DigestMismatch(self.tag, file, "has no digest in the metadata")
        try:
            data = (self.path / file).read_bytes()
        except OSError as exc:
            raise errors.DigestMismatch(self.tag, file, "cannot be read") from exc
        if hashlib.sha256(data).hexdigest() != recorded:
            raise errors.DigestMismatch(self.tag, file, "is not what was saved (SHA-256 differs)")
        return data


class ModelReference(bentoml.models.BentoModel):  # type: ignore[misc]
    """A service's model, by tag. One that the store lacks is refused here, and not looked for in BentoML's cloud."""

    def resolve(self, base_path: Any = None) -> Any:
        """The model in the store. Raises a `BentoMLException`, of which BentoML's commands print the message alone."""
        self._refuse_what_cannot_be_read()
        return super().resolve(base_path)

    def to_info(self, alias: str | None = None) -> Any:
        """What a Bento records of the model. Raises as `resolve` does."""
        self._refuse_what_cannot_be_read()
        return super().to_info(alias)

    def _refuse_what_cannot_be_read(self) -> None:
        try:
            find(str(self.tag))
        except errors.VersionNotFound as exc:
            raise NotFound(exc.message) from exc
        except errors.VersionRefused as exc:
            raise BentoMLException(exc.message) from exc


def save(
    name: str,
    files: Mapping[str, bytes],
    *,
    labels: Mapping[str, str],
    metadata: Mapping[str, Any],
    accept: Callable[[StoredVersion], object] = lambda version: None,
) -> str:
    """Saves `files` as a new version of `name` and returns its tag; all of it or nothing.

    `accept` gets the version before it is in the store; what it raises keeps it out.
    """
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    model = None
    try:
        with bentoml.models.create(name, labels=dict(labels), metadata={**metadata, "files": digests}) as model:
            for file, data in files.items():
                Path(model.path_of(file)).write_bytes(data)
            accept(StoredVersion(str(model.tag), Path(model.path), {"files": digests}))
    except BaseException:
        # An interrupt in the middle of BentoML's copying leaves a folder that breaks every listing of the store.
        if model is not None:
            with suppress(NotFound):
                bentoml.models.delete(model.tag)
        raise
    return str(model.tag)


def find(tag: str) -> StoredVersion:
    """The version under `tag` (`name:latest` is the newest). Raises `VersionNotFound`, or `VersionRefused`.

    A Bento's own versions come first: there BentoML looks nowhere else. What came later is in BENTOML_HOME.
    """
    for models in (None, *_elsewhere()):
        try:
            return _get(tag, models)
        except NotFound:
            continue
        except Exception as exc:
            # BentoML lets through what YAML and its converters raise.
            raise errors.VersionRefused(tag, f"BentoML cannot read it: {' '.join(str(exc).split())}") from exc
    raise errors.VersionNotFound(tag)


def home() -> Path:
    """BentoML's own folder, BENTOML_HOME."""
    return Path(os.environ.get("BENTOML_HOME") or "~/bentoml").expanduser()


def versions(name: str) -> list[StoredVersion]:
    """All versions of `name`, the newest first; without those that BentoML cannot read."""
    folders = [models / name for models in _elsewhere()]
    tags = {
        f"{name}:{entry.name}"
        for folder in folders
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if entry.is_dir() and is_name(entry.name)
    }
    found = []
    for tag in tags:
        with suppress(errors.VersionRefused, errors.VersionNotFound):
            found.append(find(tag))
    return sorted(found, key=lambda version: str(version.created), reverse=True)


def _elsewhere() -> list[Path]:
    """Folders with models beside the store that BentoML uses now: a container's Bento, and BENTOML_HOME."""
    bento = os.environ.get("BENTO_PATH")
    return [*([Path(bento, "models")] if bento else []), home() / "models"]


def _get(tag: str, models: Path | None) -> StoredVersion:
    if models is None:
        model = bentoml.models.get(tag)
    elif models.is_dir():
        model = ModelStore(models).get(tag)
    else:
        raise NotFound(f"there is no {models}")
    info = model.info
    return StoredVersion(str(model.tag), Path(model.path), info.metadata, info.creation_time, info.labels)
