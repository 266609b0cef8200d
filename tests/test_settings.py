"""Settings come from the environment, once, and refuse what means nothing."""

import pytest

from causeway.errors import InvalidSetting, UnknownSetting
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
        "CAUSEWAY_DEVICE": "cuda:1",
        "CAUSEWAY_STATE_FILE": "/somewhere/state.json",
        "CAUSEWAY_ADMIN_TOKEN": "0123456789abcdef",
        "CAUSEWAY_CACHE_BYTES": "4096",
        "CAUSEWAY_MONITORING": "off",
        "CAUSEWAY_DATABASE_URL": "postgresql://user@host/name",
        "CAUSEWAY_KEEP_DAYS": "7",
        "CAUSEWAY_KEEP_BYTES": "10000000",
        "CAUSEWAY_DRIFT_ROWS": "500",
        "CAUSEWAY_DRIFT_S": "60",
        "CAUSEWAY_LOG_FORMAT": "json",
    }
    state_file, token, database = "/somewhere/state.json", "0123456789abcdef", "postgresql+psycopg://user@host/name"
    monitoring = ("off", database, 7.0, 10_000_000, 500, 60.0)
    expected = Settings("other:v1", 2, 1024, 5, 12.5, 100.0, 3, "cuda:1", state_file, token, 4096, *monitoring, "json")
    assert Settings.from_env(environ) == expected


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
        ("CAUSEWAY_MODEL", "Fraud:latest"),
        ("CAUSEWAY_WORKERS", "1_0"),
        ("CAUSEWAY_TIMEOUT_MS", "1_000.0"),
        ("CAUSEWAY_LOG_FORMAT", "xml"),
        ("CAUSEWAY_DEVICE", "gpu"),
        ("CAUSEWAY_DEVICE", "cuda:"),
        ("CAUSEWAY_DEVICE", "cuda:01"),
        ("CAUSEWAY_DEVICE", "cpu:0"),
        ("CAUSEWAY_DEVICE", ""),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_variable_and_value(variable: str, value: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        Settings.from_env({variable: value})
    assert variable in str(refused.value)
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:15"])
def test_a_device_is_taken_as_it_is_written(device: str) -> None:
    assert Settings.from_env({"CAUSEWAY_DEVICE": device}).device == device


@pytest.mark.parametrize("path", ["", "state", "/somewhere/", "state.yaml", "state.json "])
def test_a_state_file_that_is_no_json_file_is_refused(path: str) -> None:
    with pytest.raises(InvalidSetting, match=r"CAUSEWAY_STATE_FILE=.*: must be the path of a \.json file$") as refused:
        Settings.from_env({"CAUSEWAY_STATE_FILE": path})
    assert repr(path) in str(refused.value)


@pytest.mark.parametrize("token", ["", "5ecret", "5ecret-5ecret-5", "5ecret 5ecret 5ecret", "5ecret-5ecret-5ecrét"])
def test_a_weak_token_is_refused_and_never_told(token: str) -> None:
    with pytest.raises(InvalidSetting, match=r"CAUSEWAY_ADMIN_TOKEN='...': must be at least 16 printable") as refused:
        Settings.from_env({"CAUSEWAY_ADMIN_TOKEN": token})
    assert "5ecret" not in f"{refused.value!r} {refused.value.__dict__}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3cret",
        "mysql://me:s3cret@host/name",
        "postgresql://",
        "postgresql://me:s3cret@host:port/name",
        "postgresql://me:s3cret@pw@host/name",
        "postgresql://host=somewhere password=s3cret",
        "postgresql://me@host/name password=s3cret",
        "postgresql://me@host/name?password=s3cret",
        "postgresql://me@host/name?sslPassword=s3cret",
    ],
)
def test_a_database_url_that_could_show_its_password_is_refused_and_never_told(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"CAUSEWAY_DATABASE_URL='...': must be a URL ") as refused:
        Settings.from_env({"CAUSEWAY_DATABASE_URL": url})
    assert "s3cret" not in f"{refused.value!r} {refused.value.__dict__} {refused.value.__context__!r}"


@pytest.mark.parametrize("rest", ["me:p%40ss@[::1]:5432/name", "/name?host=%2Frun%2Fpostgresql", "me@host/name"])
def test_a_database_url_gets_its_driver(rest: str) -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        read = Settings.from_env({"CAUSEWAY_DATABASE_URL": f"{scheme}://{rest}"})
        assert read.database_url == f"postgresql+psycopg://{rest}"


def test_settings_can_be_shown_without_their_token() -> None:
    settings = Settings.from_env({"CAUSEWAY_ADMIN_TOKEN": "5ecret-5ecret-5ecret"})
    assert settings.admin_token == "5ecret-5ecret-5ecret"
    assert "5ecret" not in f"{settings} {settings!r}"


def test_limits_are_told_in_full() -> None:
    with pytest.raises(InvalidSetting, match=r"must be a whole number from 1 to 10000000$"):
        Settings.from_env({"CAUSEWAY_MAX_ROWS": "many"})


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"CAUSEWAY_TIMEOUT_MS": "60000"}, "'30000': must be at least CAUSEWAY_TIMEOUT_MS, which is 60000"),
        ({"CAUSEWAY_MAX_TIMEOUT_MS": "500"}, "'500': must be at least CAUSEWAY_TIMEOUT_MS, which is 1000"),
    ],
)
def test_a_default_timeout_above_the_cap_is_refused(environ: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidSetting, match=f"CAUSEWAY_MAX_TIMEOUT_MS={words}"):
        Settings.from_env(environ)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("CAUSEWAY_WORKER", "CAUSEWAY_WORKERS"),
        ("CAUSEWAY_MAX_ROW", "CAUSEWAY_MAX_ROWS"),
        ("CAUSEWAY_TIMEOUT", "CAUSEWAY_TIMEOUT_MS"),
        ("CAUSEWAY_BODY_BYTES", "CAUSEWAY_MAX_BODY_BYTES"),
        ("CAUSEWAY_MODELS", "CAUSEWAY_MODEL"),
    ],
)
def test_a_misspelt_variable_is_refused_without_its_value(variable: str, meant: str) -> None:
    with pytest.raises(UnknownSetting) as refused:
        Settings.from_env({variable: "5ecret"})
    assert str(refused.value) == f"{variable} is no setting; did you mean {meant}?"


def test_variables_of_others_with_our_prefix_are_none_of_ours() -> None:
    kubernetes = {
        "CAUSEWAY_SERVICE_HOST": "10.0.0.1",
        "CAUSEWAY_SERVICE_PORT": "80",
        "CAUSEWAY_SERVICE_PORT_HTTP": "80",
        "CAUSEWAY_PORT": "tcp://10.0.0.1:80",
        "CAUSEWAY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "CAUSEWAY_PORT_80_TCP_PROTO": "tcp",
        "CAUSEWAY_CANARY_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert Settings.from_env({**kubernetes, "CAUSEWAY_TEAM": "risk"}) == Settings()
