"""Settings come from the environment, once, and refuse what means nothing."""

import pytest

from causeway.errors import InvalidSetting
from causeway.settings import Settings


def test_without_variables_every_setting_has_its_default() -> None:
    assert Settings.from_env({"PATH": "/bin"}) == Settings()


def test_each_variable_sets_its_field() -> None:
    environ = {
        "CAUSEWAY_MODEL": "other:v1",
        "CAUSEWAY_WORKERS": "2",
        "CAUSEWAY_MAX_BODY_BYTES": "1024",
        "CAUSEWAY_MAX_ROWS": "5",
        "CAUSEWAY_TIMEOUT_MS": "12.5",
        "CAUSEWAY_MAX_TIMEOUT_MS": "100",
        "CAUSEWAY_THREADS": "3",
        "CAUSEWAY_CACHE_BYTES": "4096",
        "CAUSEWAY_LOG_FORMAT": "json",
    }
    assert Settings.from_env(environ) == Settings("other:v1", 2, 1024, 5, 12.5, 100.0, 3, 4096, "json")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CAUSEWAY_MODEL", "fraud"),
        ("CAUSEWAY_MODEL", "fraud: latest"),
        ("CAUSEWAY_WORKERS", "0"),
        ("CAUSEWAY_WORKERS", "two"),
        ("CAUSEWAY_WORKERS", "1.5"),
        ("CAUSEWAY_MAX_BODY_BYTES", "-1"),
        ("CAUSEWAY_MAX_ROWS", ""),
        ("CAUSEWAY_TIMEOUT_MS", "nan"),
        ("CAUSEWAY_TIMEOUT_MS", "inf"),
        ("CAUSEWAY_MAX_TIMEOUT_MS", "0"),
        ("CAUSEWAY_LOG_FORMAT", "xml"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_variable_and_value(variable: str, value: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        Settings.from_env({variable: value})
    assert variable in str(refused.value)
    assert repr(value) in str(refused.value)
