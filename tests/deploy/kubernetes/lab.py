"""Drives a cluster with kubectl and helm: namespaces, what an installation brings itself, and the product's chart."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

FOLDER = Path(__file__).parent
CHART = FOLDER.parents[2] / "deploy" / "helm" / "nightshift"
NAMESPACE, RELEASE = "nightshift", "ns"
_PASSWORDS = ("orchestrator", "sandbox_gateway", "snapshotter", "budget", "relay")
_SECRETS = {
    "roles": {**{role: f"{role}-of-this-test" for role in _PASSWORDS}, "reader": "reader-of-this-test"},
    "admin": {"username": "postgres", "password": "admin-of-this-test"},
    "s3": {"accessKey": "nightshift", "secretKey": "secret-of-this-test"},
    "snapshot-key": {"snapshotKey": "snapshot-key-of-this-test-0123456789"},
    "model": {"ANTHROPIC_API_KEY": "model-key-of-this-test"},
    "e2b": {"E2B_API_KEY": "e2b_" + "0" * 40},
}
SECRET_VALUES = [
    value
    for secret in _SECRETS.values()
    for value in secret.values()
    if "of-this-test" in value or value.startswith("e2b_")
]

T = TypeVar("T")


def run(*command: str, check: bool = True, stdin: str | None = None, timeout: float = 900) -> str:
    """Runs a command and returns its output. Fails with the end of what it printed."""
    done = subprocess.run(command, check=False, input=stdin, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0 or not check, (
        f"{' '.join(command)[:300]}: {(done.stdout + done.stderr)[-3000:]}"
    )
    return done.stdout + (done.stderr if not check else "")


def kubectl(*arguments: str, check: bool = True, stdin: str | None = None, timeout: float = 300) -> str:
    return run("kubectl", *arguments, check=check, stdin=stdin, timeout=timeout)


def items(kind: str, selector: str = "", namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    chosen = ["-l", selector] if selector else []
    found: list[dict[str, Any]] = json.loads(kubectl("-n", namespace, "get", kind, "-o", "json", *chosen))[
        "items"
    ]
    return found


def until(what: str, condition: Callable[[], T], *, within: float, every: float = 0.5) -> T:
    """Returns the first truthy value of the condition. Fails after `within` seconds."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {within:.0f} s"
        time.sleep(every)
    return value


def deploy_dependencies() -> None:
    """Creates what the chart expects of an installation, and waits until it answers."""
    first = sorted(
        one["metadata"]["name"] for one in json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    )[0]
    text = (FOLDER / "dependencies.yaml").read_text().replace("FIRST_NODE", first)
    for name in ("POSTGRES_IMAGE", "KAFKA_IMAGE", "S3_IMAGE", "TOOLS_IMAGE"):
        text = text.replace(name, os.environ[name])
    kubectl("apply", "-f", "-", stdin=text)
    kubectl("-n", "deps", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=240s")
    kubectl("create", "namespace", NAMESPACE)
    levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn", "audit")]
    kubectl("label", "namespace", NAMESPACE, *levels)
    for name, values in _SECRETS.items():
        literals = [f"--from-literal={key}={value}" for key, value in values.items()]
        kubectl("-n", NAMESPACE, "create", "secret", "generic", name, *literals)


def chart(verb: str, image: str, *more: str, check: bool = True) -> str:
    """Installs, upgrades or renders the chart with an image."""
    repository, _, tag = image.rpartition(":")
    values = ["-f", str(FOLDER / "values.yaml"), "--set", f"image.repository={repository},image.tag={tag}"]
    place = ["-n", NAMESPACE]
    waits = ["--wait", "--timeout", "600s"] if verb != "template" else ["--kube-version", "1.36.0"]
    return run("helm", verb, RELEASE, str(CHART), *place, *values, *waits, *more, check=check)


def tools(*arguments: str, timeout: float = 1200) -> str:
    """Runs tests.support.cluster_builds in the tools pod."""
    module = ["python", "-m", "tests.support.cluster_builds", *arguments]
    return kubectl("-n", "deps", "exec", "tools", "--", *module, timeout=timeout)


def judged(prefix: str, count: int) -> dict[str, Any]:
    """The outcome of builds. Fails when one of them broke a promise or is not ready."""
    found: dict[str, Any] = json.loads(tools("judge", prefix, str(count)))
    assert found["broken"] == {}, found["broken"]
    assert found["totals"].get("ready") == count, found["totals"]
    return dict(found["totals"])


def pods(service: str, *, ready: bool = False) -> list[dict[str, Any]]:
    """The pods of a service that are not being ended."""
    found = [
        one
        for one in items("pods", f"app.kubernetes.io/component={service}")
        if "deletionTimestamp" not in one["metadata"]
    ]
    return [one for one in found if not ready or is_ready(one)]


def is_ready(pod: dict[str, Any]) -> bool:
    return any(
        one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ())
    )


def metric(pod: dict[str, Any], name: str) -> float:
    """A metric without labels of a pod's /metrics."""
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
    for line in kubectl("get", "--raw", path).splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise AssertionError(f"{name} is not among the metrics")
