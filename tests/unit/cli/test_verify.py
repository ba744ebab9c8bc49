"""The verdict of `nightshift verify`: exit code, both sides, what was tolerated."""

import json
from pathlib import Path

import pytest
from tests.support.long_build import long_build

from nightshift.cli import main
from nightshift.cli.commands.verify import report
from nightshift.cli.event_lines import event_json
from nightshift.cli.exits import Exit
from nightshift.cli.verification import Verified, verify_many
from nightshift.orchestrator.domain import calls


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "build.jsonl"
    path.write_text("".join(json.dumps(event_json(one)) + "\n" for one in long_build(2)))
    return path


def test_a_build_that_is_decided_as_it_was_is_equal(recording: Path, capfd):
    assert main.run(["verify", str(recording)]) == Exit.OK
    out, err = capfd.readouterr()
    assert out == ""
    assert "1 builds" in err
    assert "0 differ" in err


def test_the_first_difference_is_shown_with_both_sides(
    recording: Path, capfd, monkeypatch: pytest.MonkeyPatch
):
    request = calls._request
    monkeypatch.setattr(
        calls, "_request", lambda *given: request(*given).model_copy(update={"timeout_s": 77})
    )
    assert main.run(["verify", str(recording)]) == Exit.DIFFERS
    shown = capfd.readouterr().out
    assert "version 8, Answer: decision differs" in shown
    assert "recorded  120" in shown
    assert "decided   77" in shown
    assert main.run(["verify", str(recording), "--json"]) == Exit.DIFFERS
    found = json.loads(capfd.readouterr().out)
    assert (found["differs"], found["difference"]["version"]) == (True, 8)
    assert found["difference"]["decided"]["data"]["timeout_s"] == 77


def test_amounts_that_depend_on_settings_count_only_when_asked(recording: Path, capfd):
    text = recording.read_text()
    asked = json.loads(next(line for line in text.splitlines() if "budget.requested" in line))
    amount = asked["data"]["amount_microusd"]
    recording.write_text(text.replace(f'"amount_microusd": {amount}', f'"amount_microusd": {amount + 1}', 1))
    assert main.run(["verify", str(recording)]) == Exit.OK
    assert main.run(["verify", str(recording), "--strict"]) == Exit.DIFFERS
    assert "amount_microusd" in capfd.readouterr().out


def test_verify_needs_builds_or_all(recording: Path):
    assert main.run(["verify"]) == Exit.USAGE
    assert main.run(["verify", str(recording), "--all"]) == Exit.USAGE


def test_builds_are_verified_in_processes_of_their_own(recording: Path, capfd):
    found = list(verify_many(Path(), [str(recording)] * 3 + ["missing.jsonl"], frozenset({"decision"})))
    assert [one.differs for one in found] == [False] * 3 + [True]
    assert found[3].error is not None
    assert report(found, as_json=False) == Exit.DIFFERS
    assert "missing.jsonl: " in capfd.readouterr().out
    assert list(verify_many(Path(), [], frozenset())) == []


def test_a_log_that_cannot_be_folded_is_a_result(capfd):
    assert report([Verified("b1", error="version 3 of build-b1: …")], as_json=False) == Exit.DIFFERS
    assert capfd.readouterr().out == "b1: version 3 of build-b1: …\n"
