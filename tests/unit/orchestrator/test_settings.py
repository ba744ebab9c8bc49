"""Settings: the default model of an address, and required keys. Importing the service loads no model SDK."""

import subprocess
import sys

import pytest

from nightshift.eventlog.errors import ConfigurationError
from nightshift.orchestrator.settings import OrchestratorSettings

BASE = {
    "NIGHTSHIFT_POSTGRES_DSN": "postgresql://x@127.0.0.1/x",
    "NIGHTSHIFT_KAFKA_BOOTSTRAP": "127.0.0.1:9",
    "NIGHTSHIFT_S3_BUCKET": "b",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "NIGHTSHIFT_MODEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in BASE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    ("address", "model"),
    [
        (None, "claude-sonnet-5-5"),
        ("https://api.anthropic.com", "claude-sonnet-5-5"),
        ("http://127.0.0.1:8080", "scripted-1"),
        ("https://anthropic.com.evil.example", "scripted-1"),
    ],
)
def test_the_default_model_is_one_that_the_address_has(environment, address, model):
    environment.setenv("ANTHROPIC_API_KEY", "k")
    if address is not None:
        environment.setenv("ANTHROPIC_BASE_URL", address)
    assert OrchestratorSettings.load().policy().default_model == model


def test_without_a_key_claude_is_not_started(environment):
    with pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY"):
        OrchestratorSettings.load()


def test_importing_the_service_loads_no_sdk():
    code = "import sys, nightshift.orchestrator.app; sys.exit('anthropic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=50).returncode == 0
