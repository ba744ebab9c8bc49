"""What each tool answers, in a real local sandbox."""

import base64
from pathlib import Path

import pytest
from tests.support.gateway_world import World

from nightshift.sandboxes.egress.secret_store import SecretStore


async def test_bash_gives_both_streams_and_the_exit_code(world: World) -> None:
    good = await world.bash("echo out; echo err >&2; pwd")
    assert (good.is_error, good.exit_code) == (False, 0)
    assert good.output == "out\n/home/user/workspace\n[stderr]\nerr\n[exit code 0]"

    bad = await world.bash("echo before; exit 7")
    assert (bad.is_error, bad.error_kind, bad.exit_code) == (True, "exit", 7)
    assert "before" in bad.output


async def test_a_timeout_ends_everything_that_the_command_started(world: World) -> None:
    late = await world.bash("(setsid sleep 321 &); sleep 321 & echo begun; sleep 321", timeout_s=1)
    assert (late.is_error, late.error_kind) == (True, "timeout")
    assert "begun" in late.output
    left = await world.bash(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -c '^sleep 321'"
    )
    assert left.output.splitlines()[0] == "0"


async def test_a_background_command_is_controlled_by_its_handle(world: World) -> None:
    started = await world.bash("echo up; while true; do sleep 0.1; done", run_in_background=True)
    handle = started.output.split("handle: ")[1].split()[0]
    assert not started.is_error
    [read, restarted] = await world.run(
        ("bash", {"action": "read", "handle": handle}), ("bash", {"action": "restart", "handle": handle})
    )
    assert "up" in started.output
    assert read.output == "[still running]", "it wrote nothing since"
    again = restarted.output.split("handle: ")[1].split()[0]
    assert again != handle
    [old, stopped, none] = await world.run(
        ("bash", {"action": "read", "handle": handle}),
        ("bash", {"action": "stop", "handle": again}),
        ("bash", {"action": "stop", "handle": "somebody-else/1/0"}),
    )
    assert "stopped" in old.output
    assert "stopped" in stopped.output
    assert (none.is_error, none.error_kind) == (True, "bad_input")


async def test_a_command_starts_where_the_last_of_its_kind_ended(world: World) -> None:
    moved = await world.bash("mkdir -p a/b && cd a/b && exit 3", keep_directory=True)
    assert (moved.exit_code, moved.output) == (3, "[exit code 3]"), "the exit code is the command's"
    assert (await world.bash("pwd", keep_directory=True)).output.startswith("/home/user/workspace/a/b\n")
    assert (await world.bash("pwd")).output.startswith("/home/user/workspace\n"), "only where it is asked for"
    await world.bash("rm -r a")
    gone = await world.bash("pwd", keep_directory=True)
    assert gone.output.startswith("/home/user/workspace\n")
    assert "/home/user/workspace/a/b: No such file or directory" in gone.output
    [refused] = await world.run(
        ("bash", {"command": "true", "keep_directory": True, "run_in_background": True})
    )
    assert refused.error_kind == "bad_input"


async def test_a_background_command_that_fails_at_once_is_reported(world: World) -> None:
    started = await world.bash("echo no such thing >&2; exit 3", run_in_background=True)
    assert (started.is_error, started.exit_code) == (True, 3)
    assert "no such thing" in started.output


async def test_a_judge_reads_the_workspace_and_changes_nothing(world: World) -> None:
    [wrote] = await world.run(("write_file", {"file_path": "a.py", "content": "x = 1\n"}))
    assert not wrote.is_error
    read, found, ran, overwrote, after = await world.run(
        ("read_file", {"file_path": "a.py"}),
        ("grep", {"pattern": "x = "}),
        ("bash", {"command": "echo y > a.py"}),
        ("write_file", {"file_path": "a.py", "content": "y"}),
        ("read_file", {"file_path": "a.py"}),
        purpose="judge",
    )
    assert "x = 1" in read.output
    assert "a.py:1: x = 1" in found.output
    assert [ran.error_kind, overwrote.error_kind] == ["refused", "refused"]
    assert after.output == read.output


async def test_files_are_written_read_with_numbers_and_edited_once(world: World) -> None:
    [wrote, read, edited, twice, none, after] = await world.run(
        ("write_file", {"file_path": "src/a.py", "content": "one\ntwo\ntwo\nfour\n"}),
        ("read_file", {"file_path": "/home/user/workspace/src/a.py", "offset": 2, "limit": 2}),
        ("edit_file", {"file_path": "src/a.py", "old_string": "one", "new_string": "1"}),
        ("edit_file", {"file_path": "src/a.py", "old_string": "two", "new_string": "2"}),
        ("edit_file", {"file_path": "src/a.py", "old_string": "five", "new_string": "5"}),
        ("read_file", {"file_path": "src/a.py"}),
    )
    assert not wrote.is_error
    assert read.output == "     2\ttwo\n     3\ttwo\n[1 more lines]"
    assert not edited.is_error
    assert twice.is_error
    assert "2 times" in twice.output
    assert none.is_error
    assert "0 matches" in none.output
    assert after.output == "     1\t1\n     2\ttwo\n     3\ttwo\n     4\tfour"


async def test_glob_and_grep_find_what_is_there(world: World) -> None:
    await world.bash(
        "mkdir -p a/b node_modules; echo 'needle 1' > a/b/x.py; echo needle > a/y.txt; touch node_modules/z.py"
    )
    [found, lines, narrow, wrong] = await world.run(
        ("glob", {"pattern": "**/*.py"}),
        ("grep", {"pattern": "need.e"}),
        ("grep", {"pattern": "needle", "path": "a", "glob": "*.txt"}),
        ("grep", {"pattern": "(unclosed"}),
    )
    assert found.output == "a/b/x.py\n[ignored, not searched: node_modules/]"
    assert lines.output == ("a/b/x.py:1: needle 1\na/y.txt:1: needle\n[ignored, not searched: node_modules/]")
    assert narrow.output == "a/y.txt:1: needle"
    assert wrong.is_error


@pytest.mark.timeout(120)
async def test_a_runaway_pattern_is_refused_and_not_tried_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightshift.sandboxes.client._GREP_S", 1)
    await world.bash("printf 'a%.0s' $(seq 60) > x; echo b >> x")
    [slow] = await world.run(("grep", {"pattern": "(a+)+$"}))
    assert slow.is_error
    assert "took more than" in slow.output


async def test_document_narrate_and_open_port(world: World) -> None:
    [told, wrote, refused, _, opened] = await world.run(
        ("narrate", {"phase": "code", "message": "Writing the store."}),
        ("document", {"file_path": "README.md", "content": "# App\n"}),
        ("document", {"file_path": "README.txt", "content": "# App\n"}),
        ("bash", {"command": "python3 -m http.server 8123", "run_in_background": True}),
        ("open_port", {"port": 8123}),
    )
    assert told.output == "[code] Writing the store."
    assert not wrote.is_error
    assert (refused.error_kind, "file_path" in refused.output) == ("bad_input", True)
    assert not opened.is_error
    assert "preview.opened" in await world.types()


async def test_a_port_where_nothing_answers_is_an_error(world: World) -> None:
    world.probe.answer = None
    [closed] = await world.run(("open_port", {"port": 8124}), timeout_s=1)
    assert (closed.is_error, closed.error_kind) == (True, "tool")
    assert "preview.opened" not in await world.types()


async def test_bad_input_names_the_field_and_unknown_tools_are_named(world: World) -> None:
    [unknown, missing, extra, neither] = await world.run(
        ("teleport", {}),
        ("read_file", {}),
        ("read_file", {"file_path": "a", "encoding": "utf-8"}),
        ("bash", {"run_in_background": True}),
    )
    assert unknown.error_kind == "unknown_tool"
    assert "bash" in unknown.output
    assert (missing.error_kind, "file_path" in missing.output) == ("bad_input", True)
    assert (extra.error_kind, "encoding" in extra.output) == ("bad_input", True)
    assert (neither.error_kind, "command" in neither.output) == ("bad_input", True)
    assert "sandbox.opened" not in await world.types(), "no sandbox is made for what needs none"


async def test_paths_out_of_the_workspace_are_refused(world: World) -> None:
    await world.bash("ln -s / root; ln -s ../.. up")
    results = await world.run(
        ("write_file", {"file_path": "../x", "content": "1"}),
        ("write_file", {"file_path": "/etc/passwd", "content": "1"}),
        ("write_file", {"file_path": "root/tmp/x", "content": "1"}),
        ("read_file", {"file_path": "root/etc/passwd"}),
        ("read_file", {"file_path": "up/.nightshift/generation"}),
        ("glob", {"pattern": "*", "path": "up"}),
    )
    assert [one.error_kind for one in results] == ["refused"] * 6


async def test_long_output_loses_its_middle_and_the_whole_is_kept(world: World) -> None:
    long = await world.bash("echo first; yes 0123456789 | head -c 200000; echo; echo last")
    assert long.truncated
    assert len(long.output) < 31_000
    assert long.output.startswith("first")
    assert "last" in long.output
    [key] = [key for key in world.objects.bodies if "/outputs/" in key]
    assert key in long.output
    assert len(world.objects.bodies[key]) > 200_000


async def test_escapes_and_secrets_do_not_reach_the_log(world: World, tmp_path: Path) -> None:
    secret = "hunter2-canary-Ünïcode"
    store = SecretStore(tmp_path / "secrets")
    store.put("a1", "TOKEN", secret, ["api.example.org"])
    named = World(world.driver, world.log, world.leases, world.objects, store)
    await named.accept(secrets=("TOKEN",))
    result = await named.bash(
        f"echo $TOKEN; env | grep -c {secret}; TOKEN={secret}; echo $TOKEN; printf %s $TOKEN | base64;"
        " printf x$TOKEN | base64; printf %s $TOKEN | xxd -p 2>/dev/null;"
        " printf '\\033[31mred\\033[0m \\033]0;title\\007\\0007bell'; echo $TOKEN > leak; cat leak"
    )
    raw = secret.encode()
    everything = result.output + "".join(map(repr, named.objects.bodies.values()))
    for form in (
        secret,
        base64.b64encode(raw).decode().rstrip("=")[:-2],
        base64.b64encode(b"x" + raw).decode()[4:-4],
        raw.hex(),
    ):
        assert form not in everything
    assert result.output.startswith("nightshift_secret_TOKEN_")
    assert "\n0\n" in result.output  # the value is in no variable
    assert "[secret TOKEN]" in result.output
    assert "red bell" in result.output.replace("7", "")
    [seen] = await named.run(("read_file", {"file_path": "leak"}))
    assert secret not in seen.output


async def test_control_characters_hide_nothing_that_follows(world: World) -> None:
    printed = await world.bash(
        "printf 'Ã\\302\\233 \\302\\235 \\033]0;title\\nFAILED test_x\\n' | tee log; printf '10%%\\rdone\\n'"
    )
    [read, found] = await world.run(
        ("read_file", {"file_path": "log"}), ("grep", {"pattern": "FAILED", "path": "."})
    )
    assert printed.output.startswith("Ã\\x9b \\x9d \\x1b]0;title\nFAILED test_x\ndone\n")
    assert read.output == "     1\tÃ\\x9b \\x9d \\x1b]0;title\n     2\tFAILED test_x"
    assert found.output == "log:2: FAILED test_x"


async def test_a_command_of_200_000_characters_runs(world: World) -> None:
    filler = "# é" + "x" * 96 + "\n"
    body = f"cat <<'END' | tail -c 4\n{'y' * 90_000}\nfin\nEND\n"
    command = f"{filler * 1000}{body}echo $0; ls /proc/self/fd | wc -l; exit 3"
    result = await world.bash(command + " " * (200_000 - len(command)))
    short = await world.bash("ls /proc/self/fd | wc -l")
    assert result.exit_code == 3
    assert result.output.split("\n")[:3] == ["fin", "bash", short.output.split("\n")[0]]
    background = await world.bash(command.replace("exit 3", "sleep 5"), run_in_background=True)
    assert "running in the background" in background.output


async def test_exit_code_1_that_answers_no_is_no_error(world: World) -> None:
    await world.bash("echo a > a; echo b > b")
    for command in (
        "grep x a",
        "cd /tmp && grep -r x .",
        "diff a b",
        "[ -f none ]",
        "cat a | grep x",
        "X=1 test 1 = 2",
    ):
        result = await world.bash(command)
        assert (result.is_error, result.exit_code) == (False, 1), command
    for command in (
        "grep x none",
        "false",
        "false && grep x a",
        "grep x a && make",
        "set -e; false; grep x a",
        "exit 1",
    ):
        result = await world.bash(command)
        assert (result.is_error, result.error_kind) == (True, "exit"), command


async def test_cut_output_is_whole_in_a_file_of_the_sandbox(world: World) -> None:
    long = await world.bash("echo first; seq 100000; echo wrong >&2")
    note = next(line for line in long.output.split("\n") if "the whole is in" in line)
    out = note.split("the whole is in ")[1].split(" (until you sleep")[0].split(" and ")[0]
    [tail] = await world.run(("read_file", {"file_path": out, "offset": 50001, "limit": 1}))
    assert tail.output.split("\n")[0].strip() == "50001\t50000"
    same = await world.bash(f"tail -1 {out}; cat {out[:-3]}err")
    assert same.output.startswith("100000\nwrong\n")


async def test_git_commits_in_a_fresh_sandbox(world: World) -> None:
    result = await world.bash(
        "git init -q . && echo 1 > a && git add -A && git commit -qm one && git log --format='%an %D' && git diff"
        " HEAD --stat; git config user.name Own && git commit --allow-empty -qm two && git log -1 --format=%an;"
        " mkdir -p ~/.npm/x ~/.cache/pip/x && touch ~/t && locale 2>/dev/null | head -1; read -r x; echo read $?"
    )
    assert result.output.split("\n")[:5] == [
        "Nightshift HEAD -> main",
        "Own",
        "LANG=C.UTF-8",
        "read 1",
        "[exit code 0]",
    ]


@pytest.mark.timeout(120)
async def test_an_install_without_network_fails_with_its_reason(world: World) -> None:
    npm = await world.bash(
        "which npm >/dev/null || { echo EAI_AGAIN; exit 1; }; npm install left-pad", timeout_s=60
    )
    assert (npm.is_error, npm.error_kind) == (True, "exit"), npm.output
    assert any(reason in npm.output for reason in ("EAI_AGAIN", "ENOTFOUND", "ECONNREFUSED", "ENETUNREACH"))
