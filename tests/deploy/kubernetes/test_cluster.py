"""The chart on a real Kubernetes: installed, upgraded, scaled, drained and hurt while builds run.

The tests run in the order of the file, on one installation. Each prints what it measured.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
import yaml
from tests.deploy.kubernetes import lab
from tests.deploy.kubernetes.lab import NAMESPACE, RELEASE, chart, judged, kubectl, pods, tools, until

SERVICES = ("orchestrator", "sandbox-gateway", "snapshotter", "budget", "relay")
IMAGE, PREVIOUS = os.environ.get("NIGHTSHIFT_IMAGE", ""), os.environ.get("NIGHTSHIFT_PREVIOUS_IMAGE", "")
CLUSTER, DIRECTORY = os.environ.get("CLUSTER"), os.environ.get("CLUSTER_DIR", "")
FIXED = ["--set", "services.sandboxGateway.replicas=2,services.orchestrator.replicas=2"]
#: The release before this one demands a bucket of the budget service, too.
BEFORE = [
    "--set",
    "services.budget.extraEnv[0].name=NIGHTSHIFT_S3_BUCKET,services.budget.extraEnv[0].value=nightshift",
]
SCALED = ["--set", "keda.enabled=true"]

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("NIGHTSHIFT_KUBERNETES_TESTS"), reason="make test-kubernetes runs it"
    ),
    pytest.mark.timeout(1500),
]


@pytest.fixture(scope="module", autouse=True)
def installation() -> Iterator[None]:
    if kubectl("get", "namespace", NAMESPACE, check=False).startswith(NAMESPACE):
        pytest.fail(f"the cluster has a namespace {NAMESPACE} already: remove it first")
    lab.deploy_dependencies()
    yield
    if not CLUSTER:  # a cluster of one's own: nothing stays behind
        kubectl("delete", "namespace", NAMESPACE, "deps", "--timeout=300s")


def report(text: str) -> None:
    print(f"\n    {text}", end="", flush=True)


def has(resource: str) -> bool:
    return resource in kubectl("api-resources", "-o", "name")


def started_until_ready(pod: dict) -> float:
    """Seconds from the start of a pod's container to the pod's readiness. Kubernetes notes whole seconds."""
    began = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    [ready] = [one["lastTransitionTime"] for one in pod["status"]["conditions"] if one["type"] == "Ready"]
    return (datetime.fromisoformat(ready) - datetime.fromisoformat(began)).total_seconds()


def test_every_object_is_accepted_by_the_api_server():
    options = ["podMonitor.enabled=true", "keda.enabled=true", "strimzi.enabled=true", "strimzi.cluster=c"]
    known = {"PodMonitor": "podmonitors.", "ScaledObject": "scaledobjects.", "KafkaTopic": "kafkatopics."}
    known |= {"TriggerAuthentication": "triggerauthentications.", "KafkaUser": "kafkausers."}
    rendered = chart("template", IMAGE, "--set", ",".join(options))
    objects = [one for one in yaml.safe_load_all(rendered) if one]
    resources = kubectl("api-resources", "-o", "name").splitlines()
    accepted = [
        one for one in objects if any(name.startswith(known.get(one["kind"], "")) for name in resources)
    ]
    skipped = {one["kind"] for one in objects} - {one["kind"] for one in accepted}
    kubectl(
        "-n",
        NAMESPACE,
        "apply",
        "--server-side",
        "--dry-run=server",
        "-f",
        "-",
        stdin=yaml.safe_dump_all(accepted),
    )
    report(
        f"{len(accepted)} objects accepted; no custom resource definition for: {', '.join(sorted(skipped)) or 'none'}"
    )


def test_it_installs_under_the_restricted_security_level():
    began = time.monotonic()
    chart("install", PREVIOUS, *FIXED, *BEFORE)
    report(f"installed and ready after {time.monotonic() - began:.0f} s")
    for service in SERVICES:
        assert len(pods(service, ready=True)) == 2
    said = lab.run("helm", "test", RELEASE, "-n", NAMESPACE, "--logs", "--timeout", "120s")
    assert "FAIL" not in said


def test_a_build_goes_from_its_request_to_ready():
    tools("send", "one", "1", "few steps")
    report(f"ready after {tools('wait', 'one', '1', 'ready').strip()} s")
    judged("one", 1)


def test_a_rolling_upgrade_leaves_running_and_sleeping_builds_right():
    count = os.environ.get("UPGRADE_BUILDS", "50")
    tools("send-poor", "asleep", count, "costly step")
    tools("wait", "asleep", count, "sleeping")
    tools("send", "upgraded", count, "slow steps")
    before = {one["metadata"]["name"] for service in SERVICES for one in pods(service)}
    began = time.monotonic()
    chart("upgrade", IMAGE, *FIXED)
    took = time.monotonic() - began
    assert not before & {one["metadata"]["name"] for service in SERVICES for one in pods(service)}
    waited = tools("wait", "upgraded", count, "ready").strip()
    tools("top-up", "asleep", count)
    tools("wait", "asleep", count, "ready")
    judged("asleep", int(count))
    totals = judged("upgraded", int(count))
    report(f"upgrade of all services {took:.0f} s, {count} running builds ready {waited} s later: {totals}")


def test_services_are_ready_quickly_and_small_when_idle():
    for service in SERVICES:
        [pod, *_] = pods(service, ready=True)
        kubectl("-n", NAMESPACE, "delete", "pod", pod["metadata"]["name"], "--wait=true")
        until(f"{service} again", lambda service=service: len(pods(service, ready=True)) == 2, within=120)
        newest = max(pods(service, ready=True), key=lambda one: one["metadata"]["creationTimestamp"])
        memory = max(lab.metric(one, "process_resident_memory_bytes") for one in [newest]) / 2**20
        report(
            f"{service}: ready {started_until_ready(newest):.0f} s after its container's start, {memory:.0f} MiB"
        )


def test_an_upgrade_is_refused_when_its_check_fails():
    before = {pod["metadata"]["uid"] for service in SERVICES for pod in pods(service)}
    said = chart("upgrade", IMAGE, *FIXED, "--set", "postgres.database=missing", check=False)
    assert "failed" in said
    assert {pod["metadata"]["uid"] for service in SERVICES for pod in pods(service)} == before
    report("an upgrade to a database that does not exist was refused by its hook; no pod changed")
    chart("upgrade", IMAGE, *FIXED)


def test_no_secret_is_in_a_manifest_a_log_or_an_event():
    texts = [
        lab.run("helm", "get", "all", RELEASE, "-n", NAMESPACE),
        kubectl("-n", NAMESPACE, "get", "events", "-o", "yaml"),
    ]
    for service in SERVICES:
        texts += [kubectl("-n", NAMESPACE, "logs", one["metadata"]["name"]) for one in pods(service)]
    assert [secret for secret in lab.SECRET_VALUES if any(secret in text for text in texts)] == []


def test_a_drain_respects_the_disruption_budget():
    nodes = [one["metadata"]["name"] for one in lab.items("nodes", namespace="default")]
    if len(nodes) < 2:
        pytest.skip("the cluster has one node")
    tools("send", "drained", "10", "slow steps")
    began = time.monotonic()
    drain = subprocess.Popen(
        ["kubectl", "drain", nodes[-1], "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    least = dict.fromkeys(SERVICES, 2)
    while drain.poll() is None:
        for service in SERVICES:
            least[service] = min(least[service], len(pods(service, ready=True)))
        time.sleep(0.5)
    kubectl("uncordon", nodes[-1])
    assert drain.returncode == 0, drain.stdout.read()
    assert min(least.values()) >= 1, least
    tools("wait", "drained", "10", "ready")
    report(f"drained in {time.monotonic() - began:.0f} s, fewest ready pods {least}: {judged('drained', 10)}")


def test_an_orchestrator_killed_for_its_memory_loses_nothing():
    tools("send", "oom", "6", "slow steps")
    [pod, *_] = pods("orchestrator", ready=True)
    name = pod["metadata"]["name"]
    # Each process is smaller than the service, so the kernel ends the service itself.
    hog = "import os, time; all(os.fork() for _ in range(40)) or (b'x' * (60 << 20), time.sleep(60)); time.sleep(60)"
    hogs = subprocess.Popen(
        ["kubectl", "-n", NAMESPACE, "exec", name, "--", "python", "-c", hog],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def killed() -> bool:
        found = [one for one in pods("orchestrator") if one["metadata"]["name"] == name]
        last = found[0]["status"]["containerStatuses"][0]["lastState"] if found else {}
        return last.get("terminated", {}).get("reason") == "OOMKilled"

    until("an OOM kill", killed, within=90)
    hogs.kill()
    tools("wait", "oom", "6", "ready")
    report(f"OOMKilled and restarted: {judged('oom', 6)}")


def test_a_node_that_is_cut_off_is_replaced_and_its_builds_end():
    if not CLUSTER:
        pytest.skip("only a cluster of ours has a node that may be cut off")
    tools("send", "cut", "10", "slow steps")
    began = time.monotonic()
    in_node = [CLUSTER, "node", DIRECTORY, "2", "ip", "link", "set", "eth0"]
    lab.run(*in_node, "down")
    try:
        tools("wait", "cut", "10", "ready")
        report(f"all builds ready {time.monotonic() - began:.0f} s after the cut: {judged('cut', 10)}")
    finally:
        lab.run(*in_node, "up")
        lab.run(CLUSTER, "node", DIRECTORY, "2", "ip", "route", "replace", "default", "via", "10.10.0.1")
        lab.run(
            CLUSTER, "node", DIRECTORY, "2", "ip", "route", "replace", "10.244.1.0/24", "via", "10.10.0.11"
        )
    kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=120s")
    for service in SERVICES:
        until(f"{service} again", lambda service=service: len(pods(service, ready=True)) >= 2, within=180)


def test_keda_scales_gateway_and_orchestrator_by_their_work():
    if not has("scaledobjects.keda.sh"):
        pytest.skip("the cluster has no KEDA")
    chart("upgrade", IMAGE, *SCALED)
    until("gateway at 0", lambda: pods("sandbox-gateway") == [], within=180)
    until("orchestrator at 1", lambda: len(pods("orchestrator")) == 1, within=180)
    most = {"sandbox-gateway": 0, "orchestrator": 0}
    tools("send", "scaled", "20", "many calls")  # 500 calls
    began, drained = time.monotonic(), None
    waiting = subprocess.Popen(
        [
            "kubectl",
            "-n",
            "deps",
            "exec",
            "tools",
            "--",
            "python",
            "-m",
            "tests.support.cluster_builds",
            "wait",
            "scaled",
            "20",
            "ready",
        ]
    )
    while waiting.poll() is None:
        for service in most:
            most[service] = max(most[service], len(pods(service)))
        time.sleep(1)
    drained = time.monotonic() - began
    assert waiting.returncode == 0
    totals = judged("scaled", 20)
    until("gateway at 0 again", lambda: pods("sandbox-gateway") == [], within=300)
    until("orchestrator at 1 again", lambda: len(pods("orchestrator")) == 1, within=300)
    report(
        f"500 calls drained in {drained:.0f} s; gateway 0 → {most['sandbox-gateway']} → 0,"
        f" orchestrator 1 → {most['orchestrator']} → 1"
    )
    report(f"{totals}; at rest again after {time.monotonic() - began:.0f} s")
    assert most == {"sandbox-gateway": 3, "orchestrator": 3}
