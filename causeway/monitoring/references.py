"""The references of the versions that answer, as the store has them."""

from __future__ import annotations

from causeway import logs, store
from causeway.drift.reference import Reference
from causeway.errors import ReferenceBroken, VersionNotFound, VersionRefused


class References:
    """Read once each; call with a tag."""

    def __init__(self) -> None:
        self._known: dict[str, Reference | None] = {}

    def __call__(self, tag: str) -> Reference | None:
        """The reference of the version; None where it has none that makes sense, which is logged once."""
        if tag not in self._known:
            self._known[tag] = _read(tag)
        return self._known[tag]


def _read(tag: str) -> Reference | None:
    try:
        return Reference.from_json(store.find(tag).read("reference.json"))
    except (VersionNotFound, VersionRefused, ReferenceBroken) as exc:
        logs.get().warning("no_reference", model_version=tag, reason=exc.message)
        return None
