"""The version that variants are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from causeway import errors, store
from causeway.contract import PRECISION_TOLERANCE, Contract
from causeway.optimise.half import network_files
from causeway.quality.working import Working
from causeway.runtime import MODEL_FILE
from causeway.store import StoredVersion
from causeway.training.dataset import Dataset, Split, split
from causeway.version import NETWORK_FILES, ModelVersion, Samples

ROOT = Path(__file__).parents[2]
"""The clone, whose commit a variant is made by."""

DEFAULT_DAYS = 7
"""Of versions that were saved without what `train_and_save.py` was told."""


@dataclass(frozen=True)
class Parent:
    """A version with what its variants take over."""

    stored: StoredVersion
    contract: Contract
    working: Working

    @classmethod
    def find(cls, tag: str) -> Parent:
        """The version under `tag`, loaded once to see that it may serve.

        Raises `VersionNotFound`, `VersionRefused`, or a `CausewayError` where variants cannot be judged by how it was
        trained, or it is a variant itself.
        """
        stored = store.find(tag)
        loaded = ModelVersion.load(stored)
        if "variant" in stored.labels:
            origin = stored.metadata.get("parent", "its parent")
            raise errors.CausewayError(
                f"{stored.tag} is a variant ({stored.labels['variant']}) of {origin}: optimise that one; what is lost "
                "twice would be measured once"
            )
        if "family" not in stored.labels or not {"seed", "data_sha256"} <= stored.metadata.keys():
            raise errors.CausewayError(
                f"{stored.tag} does not say how it was trained: only versions that train_and_save.py saved have "
                "held-out rows to judge variants by"
            )
        return cls(stored, loaded.contract, Working.from_json(stored.read("evaluation.json")))

    @property
    def tag(self) -> str:
        """`name:version`."""
        return self.stored.tag

    @property
    def family(self) -> str:
        """The file in models/ that it was trained by."""
        return self.stored.labels["family"]

    @property
    def seed(self) -> int:
        """Of its data, split and training."""
        return int(self.stored.metadata["seed"])

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Its files by name."""
        return {name: self.stored.read(name) for name in self.stored.metadata["files"]}

    @property
    def model(self) -> bytes:
        """Its ONNX graph."""
        return self.files[MODEL_FILE]

    @property
    def card(self) -> str:
        """MODEL_CARD.md."""
        return self.files["MODEL_CARD.md"].decode()

    @property
    def samples(self) -> Samples:
        """Its rows to replay."""
        return msgspec.json.decode(self.files["samples.json"], type=Samples)

    def network_in(self, precision: str) -> dict[str, bytes]:
        """Its files for torch in that precision, which engines on GPUs read; none for one that they have no use for."""
        if precision != "fp16" or not set(NETWORK_FILES) <= self.files.keys():
            return {}
        return network_files(self.stored.path)

    def contract_in(self, precision: str) -> Contract:
        """Its contract with the tolerance of that precision, where it does not allow for more already."""
        output = self.contract.output
        tolerance = max(output.tolerance, PRECISION_TOLERANCE[precision])
        return msgspec.structs.replace(self.contract, output=msgspec.structs.replace(output, tolerance=tolerance))

    def split(self, data: Dataset) -> Split:
        """The rows it was trained on and those that were held out, from all of them.

        Raises `CausewayError` where these are other rows.
        """
        facts = self.stored.metadata
        if data.fingerprint() != facts["data_sha256"]:
            raise errors.CausewayError(
                f"{self.stored.tag} was trained on other rows ({facts.get('data')}) than these ({data.source}); give "
                "the same table as then, with --data and --label (and --time and --entity, if they were given)"
            )
        days = {name: int(facts.get(name, DEFAULT_DAYS)) for name in ("delay_days", "test_days")}
        return split(data, seed=self.seed, **days)
