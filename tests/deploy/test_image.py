"""The image: small, without secrets, run by nobody, on a read-only root."""

import gzip
import io
import json
import re
import subprocess
import tarfile

import pytest
from tests.deploy.conftest import docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
_LIMIT = 200_000_000


@pytest.fixture(scope="session")
def image(images) -> str:
    return images["NIGHTSHIFT_IMAGE"]


@pytest.fixture(scope="session")
def saved(image) -> bytes:
    return subprocess.run(["docker", "save", image], check=True, capture_output=True).stdout


@pytest.fixture(scope="session")
def config(image) -> dict:
    return json.loads(docker("image", "inspect", image))[0]["Config"]


def test_it_is_at_most_200_megabytes_compressed(saved):
    size = len(gzip.compress(saved, 6))
    print(f"\nimage: {size / 1e6:.0f} MB compressed, {len(saved) / 1e6:.0f} MB unpacked")
    assert size <= _LIMIT


def test_it_names_its_version_and_revision_and_has_a_health_check(config):
    labels = config["Labels"]
    assert re.fullmatch(r"[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.version"] == "0.1.0"
    assert config["Healthcheck"]["Test"] == ["CMD", "/opt/nightshift/bin/healthcheck"]
    assert config["User"] == "10001:10001"


def test_no_layer_holds_a_key_a_history_or_a_setting_of_the_builder(saved):
    found = []
    secret = re.compile(
        rb"-----BEGIN (?:RSA |EC |OPENSSH )?PRIVATE KEY-----|sk-ant-[A-Za-z0-9-]{20,}|AKIA[A-Z0-9]{16}"
    )
    with tarfile.open(fileobj=io.BytesIO(saved)) as layers:
        # The manifest names the layers: `<id>/layer.tar` before Docker 25, `blobs/sha256/<digest>` since.
        [manifest] = json.load(layers.extractfile("manifest.json"))
        assert manifest["Layers"]
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=layers.extractfile(layer)) as files:
                for file in files:
                    name = file.name.lower()
                    if re.search(r"(^|/)(\.git|\.env|\.nightshift|id_rsa|\.netrc|pip\.conf)(/|$)", name):
                        found.append(file.name)
                    elif file.isfile() and file.size < 1_000_000 and "/site-packages/" not in name:
                        found += [file.name] if secret.search(files.extractfile(file).read()) else []
    assert found == []


def test_no_step_of_the_history_passes_a_secret(image):
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert not re.search(r"(?i)(password|api_?key|secret|token)=", history)


def test_it_runs_as_nobody_on_a_read_only_root(image):
    restricted = [
        "--rm",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--network=none",
    ]
    said = docker(
        "run", *restricted, "--entrypoint", "sh", image, "-c", "id -u; touch /x 2>&1; nightshift --version"
    )
    assert said.splitlines()[0] == "10001"
    assert "Read-only file system" in said
    assert said.splitlines()[-1] == "0.1.0"


def test_a_service_without_settings_exits_with_4_and_names_them(image):
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", image, "service", "relay"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert "NIGHTSHIFT_POSTGRES_DSN is not set" in done.stdout + done.stderr


def test_the_bill_of_materials_is_in_it(image):
    bill = json.loads(
        docker("run", "--rm", "--entrypoint", "cat", image, "/usr/share/nightshift/sbom.cdx.json")
    )
    assert "nightshift-relay" in {one["name"] for one in bill["components"]}
