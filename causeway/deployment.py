"""Which model version answers, and why none does when none does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from causeway import errors, logs, store
from causeway.contract import Array
from causeway.settings import Settings
from causeway.version import ModelVersion

LOOP_BUDGET_S = 0.002
"""A batch that costs less runs on the event loop; a dearer one in a thread, so that other requests go on."""


@dataclass(frozen=True)
class Variant:
    """A version in a role; the champion answers."""

    role: str
    version: ModelVersion

    async def predict(self, X: Array) -> Array:
        """Predictions (n_rows, output width) float32. Raises `ModelFailed`."""
        if self.version.cost.seconds(len(X)) < LOOP_BUDGET_S:
            return self.version.predict(X)
        return await asyncio.to_thread(self.version.predict, X)


class Deployment:
    """The versions of one worker process. Until `start` succeeds, `champion` raises `NotReady` with the reason."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._champion: Variant | None = None
        self._reason = "it is being loaded"

    def start(self, built_with: Sequence[str] = ()) -> None:
        """Loads the version that the settings name; in a Bento, `latest` is the version that it was `built_with`.

        A version that fails is refused and logged, never served.
        """
        log = logs.get()
        try:
            version = ModelVersion.load(
                store.find(pinned(self._settings.model, built_with)), threads=self._settings.threads
            )
        except (errors.VersionRefused, errors.VersionNotFound) as exc:
            self._reason = exc.message
            log.error("version_refused", model_version=exc.tag, reason=exc.message)
            return
        self._champion = Variant("champion", version)
        log.info(
            "version_loaded",
            model_version=version.tag,
            role="champion",
            fixed_us=round(version.cost.fixed_s * 1e6, 1),
            per_row_us=round(version.cost.per_row_s * 1e6, 2),
        )

    @property
    def is_ready(self) -> bool:
        """Whether a version answers."""
        return self._champion is not None

    @property
    def champion(self) -> Variant:
        """The variant that answers. Raises `NotReady` with the reason."""
        if self._champion is None:
            raise errors.NotReady(self._reason)
        return self._champion


def pinned(tag: str, built_with: Sequence[str]) -> str:
    """`tag`, or for `name:latest` the tag in `built_with`: that of the same name, else the first; a Bento has its own.

    Outside of a Bento `built_with` is empty.
    """
    name, _, version = tag.partition(":")
    if version != "latest" or not built_with:
        return tag
    return next((built for built in built_with if built.startswith(f"{name}:")), built_with[0])
