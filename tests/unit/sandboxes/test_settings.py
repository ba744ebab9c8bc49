"""The key that the digests of snapshots hang on: whoever keeps snapshots must be given one."""

import subprocess
import sys

import pytest
from tests.support.processes import clean_environment

from nightshift.eventlog.errors import ConfigurationError
from nightshift.sandboxes.settings import SandboxSettings, SnapshotSettings

SERVICE = {
    "NIGHTSHIFT_POSTGRES_DSN": "postgresql://nobody@127.0.0.1:1/none",
    "NIGHTSHIFT_KAFKA_BOOTSTRAP": "127.0.0.1:1",
    "NIGHTSHIFT_S3_BUCKET": "b",
}


@pytest.fixture(autouse=True)
def _none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_S3_BUCKET", "b")
    monkeypatch.delenv("NIGHTSHIFT_SNAPSHOT_KEY", raising=False)


@pytest.mark.parametrize("service", ["sandbox_gateway", "snapshotter"])
def test_a_service_that_keeps_snapshots_does_not_start_without_a_key(service: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"nightshift.{service}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
        env=clean_environment(**SERVICE),
    )
    assert ran.returncode == 4
    assert "NIGHTSHIFT_SNAPSHOT_KEY is not set" in ran.stdout + ran.stderr
    assert "set NIGHTSHIFT_SNAPSHOT_KEY, such as" in ran.stdout + ran.stderr


@pytest.mark.parametrize("key", ["", "too short"])
def test_an_empty_or_guessable_key_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_SNAPSHOT_KEY", key)
    with pytest.raises(ConfigurationError, match="NIGHTSHIFT_SNAPSHOT_KEY") as caught:
        SnapshotSettings.load()
    assert "too short" not in str(caught.value)


def test_another_key_gives_other_digests() -> None:
    keys = ("0" * 32, "0" * 31 + "1")
    first, second = (SnapshotSettings.load(snapshot_key=key).project_key("p") for key in keys)
    assert first.of(b"content") != second.of(b"content")
    assert keys[0] in SnapshotSettings.load(snapshot_key=keys[0]).secrets()


def test_who_only_looks_at_sandboxes_needs_no_key() -> None:
    assert SandboxSettings.load().driver_name == "local"
