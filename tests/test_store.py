"""Versions are saved whole, found by BentoML's own tools, and read only if they are what was saved."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from bentoml.exceptions import BentoMLException, NotFound

from causeway import store
from causeway.errors import DigestMismatch, VersionNotFound, VersionRefused
from causeway.version import FILES as VERSION_FILES
from causeway.version import ModelVersion
from tests import tiny
from tests.conftest import environment


def bentoml(home: Path, *arguments: str) -> str:
    """What BentoML's command line prints."""
    command = ["bentoml", *arguments]
    result = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_what_was_saved_is_read_back() -> None:
    stored = tiny.saved()
    assert stored.tag.startswith("tiny:")
    assert {file: stored.read(file) for file in tiny.FILES} == tiny.FILES


def test_latest_is_the_newest_version() -> None:
    tiny.saved()
    newest = tiny.saved()
    assert store.find("tiny:latest").tag == newest.tag


def test_versions_are_listed_from_the_newest_on_without_those_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.versions("tiny")
    saved = [tiny.saved() for _ in range(3)]
    assert store.versions("tiny") == [*reversed(saved), *before]
    (saved[1].path / "model.yaml").write_text("{")
    (saved[0].path.parent / "Not A Version").mkdir()
    assert store.versions("tiny") == [saved[2], saved[0], *before]
    shutil.rmtree(saved[1].path)
    (saved[0].path.parent / "Not A Version").rmdir()
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    assert store.home() == tmp_path


@pytest.mark.parametrize("name", ["nosuchmodel", "tiny:v1", ""])
def test_a_name_that_the_store_does_not_know_has_no_versions(name: str) -> None:
    assert store.versions(name) == []


def test_a_version_says_what_it_takes_and_how_good_it_is_where_training_measured_it() -> None:
    stored = tiny.saved()
    assert stored.n_bytes == sum(map(len, tiny.FILES.values())) + (stored.path / "model.yaml").stat().st_size
    for metadata, measured in (
        ({"quality": {"average_precision": 0.7}}, 0.7),
        ({"quality": {}}, None),
        ({"quality": "good"}, None),
        ({}, None),
    ):
        assert replace(stored, metadata=metadata).average_precision == measured


@pytest.mark.parametrize("tag", ["tiny:nosuchversion", "nosuchmodel:latest"])
def test_a_version_that_is_not_there_is_named(tag: str) -> None:
    with pytest.raises(VersionNotFound, match=tag):
        store.find(tag)


def test_a_changed_file_is_not_read() -> None:
    stored = tiny.saved()
    path = stored.path / "contract.json"
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"c"'))
    with pytest.raises(DigestMismatch, match=r"contract.json is not what was saved"):
        stored.read("contract.json")


def test_a_missing_file_is_named() -> None:
    stored = tiny.saved()
    (stored.path / "samples.json").unlink()
    with pytest.raises(DigestMismatch, match=r"samples.json cannot be read"):
        stored.read("samples.json")


def test_a_file_that_was_never_recorded_is_not_read() -> None:
    stored = tiny.saved()
    (stored.path / "extra.json").write_bytes(b"{}")
    with pytest.raises(DigestMismatch, match=r"extra.json has no digest"):
        stored.read("extra.json")


def test_a_failed_save_leaves_no_version() -> None:
    before = bentoml_tags()
    with pytest.raises(FileNotFoundError):
        store.save("tiny", {**tiny.FILES, "no/such/folder": b""}, labels={}, metadata={})
    assert bentoml_tags() == before


def test_a_version_that_is_not_accepted_is_not_saved() -> None:
    def refuse(version: store.StoredVersion) -> None:
        assert version.read("contract.json") == tiny.FILES["contract.json"]
        raise KeyboardInterrupt

    before = bentoml_tags()
    with pytest.raises(KeyboardInterrupt):
        store.save("tiny", tiny.FILES, labels={}, metadata={}, accept=refuse)
    assert bentoml_tags() == before


def test_a_version_whose_metadata_cannot_be_read_is_refused() -> None:
    stored = tiny.saved()
    (stored.path / "model.yaml").write_text("{")
    with pytest.raises(VersionRefused, match="BentoML cannot read it"):
        store.find(stored.tag)
    shutil.rmtree(stored.path)


def test_a_version_that_is_not_there_or_cannot_be_read_is_not_packed_and_not_looked_for_elsewhere() -> None:
    with pytest.raises(NotFound, match="The model store has no version nosuch:latest"):
        store.ModelReference("nosuch:latest").to_info()
    stored = tiny.saved()
    (stored.path / "model.yaml").unlink()
    reference = store.ModelReference(stored.tag)
    for use in (reference.to_info, reference.resolve):
        with pytest.raises(BentoMLException, match=f"Version {stored.tag} is refused: BentoML cannot read it"):
            use()
    shutil.rmtree(stored.path)


def bentoml_tags() -> set[str]:
    import bentoml as library

    return {str(model.tag) for model in library.models.list()}


def test_bentoml_lists_the_reference_model_with_labels_and_metadata(home: Path) -> None:
    listed = json.loads(bentoml(home, "models", "list", "fraud", "--output", "json"))
    tag = listed[0]["tag"]
    model = json.loads(bentoml(home, "models", "get", tag, "--output", "json"))
    assert model["labels"] == {"family": "gradient_boosting", "use-case": "fraud", "format": "onnx"}
    metadata = model["metadata"]
    assert set(metadata["files"]) == set(VERSION_FILES)
    assert {"commit", "data", "data_sha256", "params", "quality", "seed", "split", "versions"} <= set(metadata)
    assert metadata["versions"]["scikit-learn"]


def test_a_version_survives_export_to_a_file_and_import_elsewhere(home: Path, tmp_path: Path) -> None:
    tag = store.find("fraud:latest").tag
    archive = tmp_path / "fraud.bentomodel"
    bentoml(home, "models", "export", tag, str(archive))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    bentoml(elsewhere, "models", "import", str(archive))
    assert tag in bentoml(elsewhere, "models", "list")
    name, version = tag.split(":")
    found = store.StoredVersion(tag, elsewhere / "models" / name / version, store.find(tag).metadata)
    assert ModelVersion.load(found).tag == tag
