"""What BentoML takes as a model's name and as a model tag, `name:version`."""

from __future__ import annotations

import re

_PART = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")

LATEST = "latest"
"""The version that stands for the newest one."""

NAME_RULE = "1 to 63 of a-z, 0-9, '.', '_' and '-', with a letter or a digit at both ends"


def is_name(text: object) -> bool:
    """Whether `text` can be a model's name, or a version's."""
    return isinstance(text, str) and _PART.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether `text` is `name:version`, where `latest` is a version too."""
    name, _, version = text.partition(":")
    return is_name(name) and is_name(version)
