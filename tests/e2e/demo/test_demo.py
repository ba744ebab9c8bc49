"""The main job as a user sees it: `nightshift demo` on real processes, real traffic, a real night."""

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from tests.support.local_files import text_in_sandbox
from tests.support.processes import in_process, nightshift
from tests.support.span_collector import Collector, Span, span_collector

from nightshift.cli.main import NAMES

pytestmark = pytest.mark.timeout(150)


class Demo(NamedTuple):
    """A demo that ran and was kept, and every event of its build."""

    home: Path
    summary: dict[str, Any]
    events: list[dict[str, Any]]
    collector: Collector

    def places(self, type_: str, **data: Any) -> list[int]:
        """Where the events of a type with this data stand in the log."""
        return [
            event["version"]
            for event in self.events
            if event["type"] == type_
            and all(event["data"].get(name) == value for name, value in data.items())
        ]

    def run(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command on the kept stack."""
        return in_process(name, *arguments, "--home", str(self.home))

    def command(self, name: str, *arguments: str) -> Any:
        """A command on the kept stack, with --json; what it printed."""
        ran = self.run(name, *arguments, "--json")
        assert ran.returncode == 0, ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    home = tmp_path_factory.mktemp("demo") / "home"
    with span_collector() as collector:
        try:
            ran = nightshift(
                *("demo", "--json", "--keep", "--home", str(home)),
                env=collector.environment(),
                timeout=120,
            )
            assert ran.returncode == 0, ran.stderr
            *events, summary = (json.loads(line) for line in ran.stdout.splitlines())
            yield Demo(home, summary, events, collector)
        finally:
            nightshift("down", "--home", str(home))
    left = [_words(one) for one in psutil.process_iter(["cmdline"]) if str(home) in _words(one)]
    assert left == [], "something of the stack still runs"


def _words(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"] or ())


def test_it_ends_ready_and_prints_one_summary(demo: Demo) -> None:
    assert list(demo.summary) == [
        *("build_id", "status", "sandbox_id", "preview_url", "build_version", "turns", "tool_calls"),
        *("checkpoints", "snapshots", "sleeps", "cost_microusd", "events", "seconds"),
    ]
    assert demo.summary["status"] == "ready"
    assert demo.summary["build_version"] == 1
    assert demo.summary["turns"] >= 12


def test_its_preview_shows_the_app(demo: Demo) -> None:
    with urllib.request.urlopen(demo.summary["preview_url"], timeout=10) as answer:
        page = answer.read().decode()
    assert "The tool library" in page
    assert "Pressure washer" in page


def test_each_step_had_its_effect_once(demo: Demo) -> None:
    steps = text_in_sandbox(demo.home, demo.summary["sandbox_id"], "STEPS.md").splitlines()
    numbers = [int(line.split()[1].rstrip(":")) for line in steps]
    assert numbers == [number for number in range(1, 14) if number != 5]


def test_the_agent_saw_the_failing_test_before_its_fix(demo: Demo) -> None:
    [failed] = [
        event["version"]
        for event in demo.events
        if event["type"] == "tool_call.completed" and "AlreadyOut not raised" in str(event["data"]["output"])
    ]
    [mend] = demo.places("tool_call.requested", tool="edit_file")
    assert failed < mend


def test_a_sleep_saves_closes_wakes_and_restores_in_order(demo: Demo) -> None:
    [asleep] = demo.places("sleep.requested")
    before = [event for event in demo.events if event["version"] < asleep]
    assert before[-1]["type"] == "checkpoint.saved" or before[-2]["type"] == "checkpoint.saved"
    [saved] = demo.places("snapshot.saved", reason="pre_sleep")
    [closed] = demo.places("sandbox.closed")
    [woken] = demo.places("build.woken")
    [wake] = demo.places("wake.requested")
    assert asleep < saved < closed < wake < woken
    between = {event["type"] for event in demo.events if closed < event["version"] < wake}
    assert between <= {"budget.settled"}
    [restored] = demo.places("sandbox.restored")
    assert restored > woken


def test_the_restored_files_have_the_saved_digest(demo: Demo) -> None:
    [saved] = [event["data"] for event in demo.events if event["data"].get("reason") == "pre_sleep"]
    [restored] = [event["data"] for event in demo.events if event["type"] == "sandbox.restored"]
    assert restored["tree_digest"] == saved["tree_digest"]
    assert restored["from_snapshot"] == saved["key"]
    assert restored["lost"] == []


def test_every_checkpoint_comes_before_its_snapshot(demo: Demo) -> None:
    checkpoints = set(demo.places("checkpoint.saved"))
    for event in demo.events:
        if event["type"] == "snapshot.saved" and event["data"]["reason"] == "checkpoint":
            assert event["data"]["at_version"] in checkpoints
            assert event["version"] > event["data"]["at_version"]


def test_a_turn_is_one_trace_over_all_services(demo: Demo, eventually: Any) -> None:
    turns = len(demo.places("checkpoint.saved"))
    found = asyncio.run(eventually(lambda: _turn_with_everything(demo, turns), timeout=30))
    services = {span.service for span in found}
    assert services >= {"orchestrator", "relay", "sandbox-gateway", "snapshotter"}
    ids = {span.span_id for span in found}
    assert len(ids) == len(found)
    assert [span for span in found if span.parent_id and span.parent_id not in ids] == [], "an orphan"
    [turn] = [span for span in found if not span.parent_id]
    assert turn.name == "invoke_agent nightshift"
    assert turn.attributes["gen_ai.conversation.id"] == demo.summary["build_id"]
    work = [span for span in found if span.name.startswith(("chat ", "execute_tool "))]
    assert {span.parent_id for span in work} == {turn.span_id}
    sent = {span.span_id for span in found if span.name.startswith("send ")}
    processed = [span for span in found if span.name.startswith("process ")]
    assert processed
    assert {span.parent_id for span in processed} <= sent, "a message was not handled below its send"
    first = min(_turns(demo), key=lambda span: span.attributes["nightshift.turn"])
    requested = {span.trace_id for span in demo.collector.spans if span.name.endswith("requests.v1")}
    assert {trace for trace, _ in first.links} <= requested, "the turn does not link to its request"


def _turns(demo: Demo) -> list[Span]:
    return [span for span in list(demo.collector.spans) if span.name == "invoke_agent nightshift"]


def _turn_with_everything(demo: Demo, turns: int) -> list[Span] | None:
    """The spans of one turn with a tool and a snapshot, when all turns have arrived: they come in batches."""
    roots = _turns(demo)
    if len(roots) < turns:
        return None
    for root in roots:
        of_turn = [span for span in list(demo.collector.spans) if span.trace_id == root.trace_id]
        names = {span.name.split()[0] for span in of_turn}
        if names >= {"invoke_agent", "chat", "execute_tool", "send", "process", "snapshot"}:
            ids = {span.span_id for span in of_turn}
            if all(not span.parent_id or span.parent_id in ids for span in of_turn):
                return of_turn
    return None


def test_no_text_of_the_build_is_in_a_span(demo: Demo) -> None:
    told = " ".join(str(span) for span in demo.collector.spans)
    assert "tool library" not in told
    assert "workspace/" not in told


def test_the_cost_is_the_sum_of_the_model_calls(demo: Demo) -> None:
    spent = sum(
        event["data"].get("cost_microusd", 0)
        for event in demo.events
        if event["type"].startswith("model_call")
    )
    [ready] = [event["data"] for event in demo.events if event["type"] == "build.ready"]
    assert spent == ready["cost_microusd"] == demo.summary["cost_microusd"]
    answers = [event["data"] for event in demo.events if event["type"] == "model_call.responded"]
    usage = [one["usage"] for one in answers if one.get("role") in (None, "builder")]
    assert all(one["cache_read_input_tokens"] and one["cache_write_5m_input_tokens"] for one in usage)


def test_doctor_is_all_ok_on_a_fresh_stack(demo: Demo) -> None:
    findings = demo.command("doctor")[0]
    assert [one for one in findings if one["status"] != "pass"] == []


def test_a_kept_demo_can_be_inspected(demo: Demo) -> None:
    build = demo.summary["build_id"]
    [builds] = demo.command("builds")
    assert {one["build_id"]: one["status"] for one in builds}[build] == "ready"
    assert len(demo.command("log", build)) >= demo.summary["events"]
    assert demo.command("replay", build)[-1]["cost_microusd"] == demo.summary["cost_microusd"]
    [account] = demo.command("account", "show", "demo")
    assert account["spent_in_period_microusd"] == demo.summary["cost_microusd"]
    assert account["reserved_microusd"] == 0


@pytest.fixture(scope="module")
def asked_again(demo: Demo) -> tuple[int, list[Any]]:
    """The demo's request again, then another under its id: how many events it had before, and what was parked."""
    build, events = demo.summary["build_id"], len(demo.command("log", demo.summary["build_id"]))
    same = {"build-id": build, "project": "tool-library", "account": "demo", "model": "scripted-1"}
    flags = [word for name, value in same.items() for word in (f"--{name}", value)]
    demo.command("build", "examples/ideas/tool-library.yaml", *flags)
    # The other one has the same key, so it is handled after the first.
    demo.command("build", "--idea", "something else", "--build-id", build)
    parked: list[Any] = []
    while not parked:  # the test's time limit bounds it
        [parked] = demo.command("dlq", "list")
    return events, parked


def test_a_repeated_request_changes_nothing(demo: Demo, asked_again: tuple[int, list[Any]]) -> None:
    events, parked = asked_again
    assert len(parked) == 1
    assert "EventIdReused" in json.dumps(parked) or "Refused" in json.dumps(parked)
    assert len(demo.command("log", demo.summary["build_id"])) == events


def test_every_command_speaks_json(demo: Demo, asked_again: tuple[int, list[Any]], tmp_path: Path) -> None:
    build = demo.summary["build_id"]
    demo.command("account", "open", "poor", "0.01")
    while demo.run("account", "show", "poor").returncode:
        pass  # until it is noted; the test's time limit bounds it
    letter = asked_again[1][0]
    archive = tmp_path / "night.nightshift.zip"
    asked = ("--idea", "a page", "--build-id", "asked-in-json", "--account", "poor", "--model", "scripted-1")
    commands: tuple[tuple[str, ...], ...] = (
        ("build", *asked),
        ("wait", "asked-in-json", "--for", "waiting", "--timeout", "30s"),
        ("questions",),
        ("tell", "asked-in-json", "Make it blue."),
        ("limits", "asked-in-json", "--turns", "5000"),
        ("cancel", "asked-in-json"),
        ("builds",),
        ("watch", build),
        ("log", build),
        ("replay", build),
        ("fork", build, "--at", "turn:3", "--build-id", "forked-in-json", "--account", "poor"),
        ("compare", build, build),
        ("verify", build),
        ("rehearse",),
        ("redrive", build),
        ("republish", build, "--dry-run"),
        ("export", build, "--files", "-o", str(archive)),
        ("snapshots", build),
        ("files", build),
        ("diff", build, "turn:3", "turn:7"),
        ("open", build),
        ("network", build),
        ("secrets", "list", "--account", "demo"),
        ("gc", "--dry-run"),
        ("account", "show", "demo"),
        ("account", "list"),
        ("account", "budget", "poor", "0.02"),
        ("account", "top-up", "poor", "0.01"),
        ("ps",),
        ("status",),
        ("drain", "snapshotter"),
        ("drain", "snapshotter", "--off"),
        ("doctor",),
        ("db", "status"),
        ("topics", "apply", "--dry-run"),
        ("dlq", "list"),
        ("dlq", "show", letter["id"]),
        ("dlq", "redrive", letter["id"], "--dry-run"),
    )
    # `account open` is above, `wake`, `answer`, `pause` and `resume` below; `up`, `demo`, `down`, `service`: in the
    # fixture and in the stack's own tests.
    below = {"wake", "answer", "pause", "resume", "rewind", "import", "approve", "deny"}
    assert set(NAMES) == {one[0] for one in commands} | below | {"up", "demo", "down", "service"}
    for words in commands:
        ran = demo.run(*words, "--json")
        assert "\x1b" not in ran.stdout, words
        assert [json.loads(line) for line in ran.stdout.splitlines()], (words, ran.stderr)
        assert ran.returncode == 0, (words, ran.stderr, ran.stdout[-2000:])
    refused = demo.run("wake", build, "--json")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "not asleep" in refused.stderr
    again = demo.run("import", str(archive), "--json")
    assert (again.returncode, again.stdout) == (1, "")
    assert "already" in again.stderr
    ended = (
        ("answer", build, "yes"),
        ("pause", build),
        ("resume", build),
        ("rewind", build, "--at", "turn:2"),
    )
    for words in ended:
        late = demo.run(*words, "--json")
        assert (late.returncode, late.stdout) == (1, ""), words
        assert "has ended" in late.stderr or "is ready" in late.stderr, (words, late.stderr)
