"""Settings come from the environment, name what is wrong, and never show a secret."""

import re

import pytest
from pydantic import SecretStr

from nightshift.budget.settings import BudgetSettings
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import ConfigurationError
from nightshift.orchestrator.settings import OrchestratorSettings
from nightshift.relay.settings import RelaySettings
from nightshift.sandbox_gateway.settings import GatewaySettings
from nightshift.servicekit.settings import Settings
from nightshift.snapshotter.settings import SnapshotterSettings

WHOLE = {
    "NIGHTSHIFT_KAFKA_BOOTSTRAP": "k:9092",
    "NIGHTSHIFT_POSTGRES_DSN": "postgresql://u:hunter2-dsn@h/db",
    "NIGHTSHIFT_S3_BUCKET": "b",
    "NIGHTSHIFT_S3_SECRET_KEY": "hunter2-s3",
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(__import__("os").environ):
        if name.startswith("NIGHTSHIFT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch):
    def give(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return give


def test_settings_are_read_and_secrets_never_shown(env):
    env(**WHOLE)
    settings = Settings.load()
    assert settings.postgres_dsn.get_secret_value() == WHOLE["NIGHTSHIFT_POSTGRES_DSN"]
    assert sorted(settings.secrets()) == ["hunter2-dsn", "hunter2-s3", WHOLE["NIGHTSHIFT_POSTGRES_DSN"]]
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "hunter2" not in shown


def test_an_encoded_password_in_an_address_is_a_secret(env):
    env(**WHOLE | {"NIGHTSHIFT_POSTGRES_DSN": "postgresql://u:hun%2Fter@h/db"})
    assert {"hun%2Fter", "hun/ter"} < set(Settings.load().secrets())


#: Every service's settings: what each may hold is kept as a secret there, or is no secret.
SERVICES = (OrchestratorSettings, GatewaySettings, SnapshotterSettings, BudgetSettings, RelaySettings)
_SECRET = re.compile(r"(?:^|_)(?:dsn|passwords?|secrets?|tokens?|keys?|credentials?)$")
_NO_SECRET = {
    "s3_access_key": "a name, as the vendor has it",
    "max_output_tokens": "a number",
    "thinking_tokens": "a number",
    "context_tokens": "a number",
}


@pytest.mark.parametrize("kind", SERVICES, ids=lambda kind: kind.__name__)
def test_fields_named_like_secrets_are_secret_in_all_services(env, kind: type[Settings]):
    secret = {
        name: field
        for name, field in kind.model_fields.items()
        if _SECRET.search(name) and name not in _NO_SECRET
    }
    assert "postgres_dsn" in secret
    assert [name for name, field in secret.items() if "SecretStr" not in repr(field.annotation)] == []
    values = {name: f"hunter2-{name}-{'x' * 32}" for name in secret}
    settings = kind.model_construct(**{name: SecretStr(value) for name, value in values.items()})
    assert set(settings.secrets()) == set(values.values())
    for shown in (repr(settings), str(settings), str(settings.model_dump())):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    "missing", ["NIGHTSHIFT_KAFKA_BOOTSTRAP", "NIGHTSHIFT_POSTGRES_DSN", "NIGHTSHIFT_S3_BUCKET"]
)
def test_a_missing_variable_is_named(env, missing):
    env(**{name: value for name, value in WHOLE.items() if name != missing})
    with pytest.raises(ConfigurationError, match=f"{missing} is not set") as caught:
        Settings.load()
    assert missing in (caught.value.hint or "")


def test_a_wrong_value_is_named_and_not_shown(env):
    env(**WHOLE, NIGHTSHIFT_HEALTH_PORT="hunter2-in-the-wrong-place")
    with pytest.raises(ConfigurationError, match="NIGHTSHIFT_HEALTH_PORT is wrong") as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"NIGHTSHIFT_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "NIGHTSHIFT_KAFKA_SASL_PASSWORD"),
        ({"NIGHTSHIFT_KAFKA_SSL_KEY_FILE": "/k"}, "NIGHTSHIFT_KAFKA_SSL_CERT_FILE"),
    ],
)
def test_credentials_belong_together(env, values, told):
    env(NIGHTSHIFT_KAFKA_BOOTSTRAP="k:1", **values)
    with pytest.raises(ConfigurationError, match=told):
        KafkaSettings.load()


def test_the_embedded_broker_gets_a_short_session(env):
    env(NIGHTSHIFT_KAFKA_BOOTSTRAP="k:1", NIGHTSHIFT_KAFKA_ADAPTIVE_FETCH="true")
    assert KafkaSettings.load().session_timeout_s == 2.0
    assert KafkaSettings.load(kafka_adaptive_fetch=False).session_timeout_s == 10.0
    assert KafkaSettings.load(kafka_session_timeout_s=30).session_timeout_s == 30
