"""Where model versions live: the only module that talks to BentoML's model store.

A version is an immutable tag `name:version`. Its metadata holds the SHA-256 of every file, which tells a damaged
version from a whole one; it does not protect against somebody who may write to the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLException, NotFound

from causeway import errors


@dataclass(frozen=True)
class StoredVersion:
    """A version as it lies in the store: its tag, its folder and its metadata."""

    tag: str
    path: Path
    metadata: Mapping[str, Any]

    def read(self, file: str) -> bytes:
        """The bytes of `file`. Raises `DigestMismatch` where they are not what was saved."""
        recorded = self.metadata.get("files", {}).get(file)
        if recorded is None:
            raise errors.DigestMismatch(self.tag, file, "has no digest in the metadata")
        try:
            data = (self.path / file).read_bytes()
        except OSError as exc:
            raise errors.DigestMismatch(self.tag, file, "cannot be read") from exc
        if hashlib.sha256(data).hexdigest() != recorded:
            raise errors.DigestMismatch(self.tag, file, "is not what was saved (SHA-256 differs)")
        return data


def save(name: str, files: Mapping[str, bytes], *, labels: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """Saves `files` as a new version of `name` and returns its tag; all of it or nothing."""
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    with bentoml.models.create(name, labels=dict(labels), metadata={**metadata, "files": digests}) as model:
        for file, data in files.items():
            Path(model.path_of(file)).write_bytes(data)
    return str(model.tag)


def find(tag: str) -> StoredVersion:
    """The version under `tag` (`name:latest` is the newest). Raises `VersionNotFound`."""
    try:
        model = bentoml.models.get(tag)
    except (NotFound, BentoMLException) as exc:
        raise errors.VersionNotFound(tag) from exc
    return StoredVersion(str(model.tag), Path(model.path), model.info.metadata)
