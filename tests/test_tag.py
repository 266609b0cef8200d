"""Names and tags are those that BentoML itself takes."""

import bentoml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causeway.tag import is_name, is_tag


@given(st.text("ab9._-/: Z", max_size=70) | st.text("a-", min_size=60, max_size=66))
def test_a_name_is_one_exactly_if_bentoml_takes_it_as_it_is(text: str) -> None:
    try:
        taken = bentoml.Tag(text).name == text
    except ValueError:
        taken = False
    assert is_name(text) == taken


@pytest.mark.parametrize("tag", ["fraud:latest", "breast_cancer:sh3yrixgbcrtoax4", "a:1.0"])
def test_a_tag_has_a_name_and_a_version(tag: str) -> None:
    assert is_tag(tag)


@pytest.mark.parametrize("tag", ["fraud", "fraud:", ":latest", "fraud:a:b", "Fraud:latest", "fraud: latest", ""])
def test_what_lacks_one_of_them_is_no_tag(tag: str) -> None:
    assert not is_tag(tag)


def test_what_is_no_text_is_no_name() -> None:
    assert not is_name(None)
