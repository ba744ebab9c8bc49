"""Which installation a command talks to: what is set, else the stack on its home."""

import os
from pathlib import Path
from typing import Any

import pytest

from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import settings_for
from nightshift.devstack.stack.home import hold, write_stack
from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.settings import ObjectStoreSettings, PostgresSettings

OURS = "postgresql://postgres@127.0.0.1:5/nightshift"
THEIRS = "postgresql://ns:hunter2@db.example:5432/log?sslmode=require"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NIGHTSHIFT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def stack(tmp_path: Path):
    """A stack that runs on the folder and told this of itself."""
    with hold(tmp_path):

        def tell(**told: Any) -> Path:
            write_stack(tmp_path, {"home": str(tmp_path), **told, "services": {}})
            return tmp_path

        yield tell


def dsn(home: Path, **how: str) -> str:
    return settings_for(PostgresSettings, home, **how).postgres_dsn.get_secret_value()


def test_the_stacks_own_server_is_used_as_the_reader_role(stack):
    home = stack(postgres={"dsn": OURS, "pid": 1})
    assert dsn(home) == OURS.replace("postgres@", "nightshift_reader@")
    assert dsn(home, role="nightshift_budget") == OURS.replace("postgres@", "nightshift_budget@")


def test_a_given_server_is_used_with_its_own_credentials(stack):
    assert dsn(stack(postgres={"dsn": THEIRS, "pid": None})) == THEIRS


@pytest.mark.parametrize(("pid", "embedded"), [(7, True), (None, False)])
def test_only_the_embedded_broker_gets_its_workarounds(stack, pid: int | None, embedded: bool):
    settings = settings_for(KafkaSettings, stack(kafka={"bootstrap": "k:1", "pid": pid}))
    assert settings.kafka_bootstrap == "k:1"
    assert (settings.kafka_adaptive_fetch, settings.kafka_idempotence) == (embedded, not embedded)


def test_the_object_store_comes_with_its_keys(stack):
    told = {"endpoint": "http://s", "bucket": "b", "access_key": "a", "secret_key": "hunter2", "region": "r"}
    settings = settings_for(ObjectStoreSettings, stack(s3={**told, "pid": 3}))
    assert (settings.s3_endpoint, settings.s3_bucket, settings.s3_access_key) == ("http://s", "b", "a")
    assert settings.s3_region == "r"
    assert settings.s3_secret_key is not None
    assert settings.s3_secret_key.get_secret_value() == "hunter2"


def test_an_object_store_without_keys_uses_the_vendors_chain(stack):
    told = {"endpoint": "http://s", "bucket": "b", "access_key": "", "secret_key": "", "pid": None}
    settings = settings_for(ObjectStoreSettings, stack(s3=told))
    assert (settings.s3_access_key, settings.s3_secret_key) == (None, None)


def test_a_variable_wins_over_the_stack(stack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_DSN", THEIRS)
    assert dsn(stack(postgres={"dsn": OURS, "pid": 1})) == THEIRS


def test_without_a_stack_or_variables_the_error_says_what_to_do(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=f"no stack runs on {tmp_path}") as caught:
        settings_for(KafkaSettings, tmp_path)
    assert caught.value.hint is not None
    assert "nightshift up" in caught.value.hint
