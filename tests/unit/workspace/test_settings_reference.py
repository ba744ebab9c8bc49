"""The reference of settings is generated from the code, complete, and what every process checks its variables with."""

import re
import runpy

import pytest
from tests.unit.workspace.test_docs import ROOT

from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.setting_names import KNOWN
from nightshift.relay.settings import RelaySettings

WHOLE = {"NIGHTSHIFT_KAFKA_BOOTSTRAP": "k:9092", "NIGHTSHIFT_POSTGRES_DSN": "postgresql://u@h/db"}


def test_the_page_and_the_names_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(ROOT / "scripts/settings_reference.py"), run_name="script")
    assert script["main"](["--check"]) == 0, capsys.readouterr().out


def test_every_setting_of_the_page_has_a_meaning() -> None:
    rows = re.findall(r"^\| `[A-Z0-9_]+` \|.*$", (ROOT / "docs/reference/settings.md").read_text(), re.M)
    assert len(rows) > 90
    assert [row for row in rows if row.endswith("|  |")] == []


@pytest.fixture
def _given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_given")
def test_an_unknown_variable_is_refused_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_RELAY_BATCH_EVENT", "5")
    with pytest.raises(ConfigurationError, match=r"no setting NIGHTSHIFT_RELAY_BATCH_EVENT$") as refused:
        RelaySettings.load()
    hint = "did you mean NIGHTSHIFT_RELAY_BATCH_EVENTS in place of NIGHTSHIFT_RELAY_BATCH_EVENT?"
    assert refused.value.hint == hint


@pytest.mark.usefixtures("_given")
def test_variables_of_other_services_and_of_kubernetes_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "NIGHTSHIFT_GATEWAY_BUILDS" in KNOWN
    for name, value in {
        "NIGHTSHIFT_GATEWAY_BUILDS": "9",
        "NIGHTSHIFT_RELAY_PORT": "tcp://10.0.0.1:8080",
        "NIGHTSHIFT_RELAY_SERVICE_HOST": "10.0.0.1",
        "NIGHTSHIFT_RELAY_SERVICE_PORT_HTTP": "8080",
        "NIGHTSHIFT_RELAY_PORT_8080_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert RelaySettings.load().s3_bucket is None


@pytest.mark.usefixtures("_given")
def test_a_relative_home_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RelaySettings.load().home.is_absolute()
    monkeypatch.setenv("NIGHTSHIFT_HOME", ".nightshift")
    with pytest.raises(ConfigurationError, match=r"NIGHTSHIFT_HOME is wrong: .*absolute"):
        RelaySettings.load()
