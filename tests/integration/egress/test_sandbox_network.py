"""A sandbox behind the real proxy process."""

import contextlib
import os
import signal
from pathlib import Path
from typing import Literal

import pytest
from tests.support.gateway_world import World

from nightshift.contracts.events.requests import Source
from nightshift.contracts.events.sandbox import SandboxStalled, ToolCallCompleted
from nightshift.contracts.hosts import PUBLIC_REGISTRIES
from nightshift.sandbox_gateway.usecases.network import NetworkPolicy
from nightshift.sandboxes.egress.process import EgressProcess
from nightshift.sandboxes.snapshots.checkout import checkout

CANARY = "canary-0123456789-value"


async def test_a_refused_host_is_named_to_the_agent_at_once(world: World) -> None:
    await world.accept()
    for command in (
        "curl -sS https://evil.example/",
        "curl -sS http://evil.example/",
        "git ls-remote https://evil.example/x.git",
        "python3 -c 'import urllib.request as u; u.urlopen(\"https://evil.example/\")'",
        "pip download -q nothing --index-url https://evil.example/simple",
    ):
        result = await world.bash(command)
        assert "evil.example is not allowed" in result.output
        assert "This build may reach: " in result.output
        assert result.network is not None
        # Three at most, from pip: a client that takes a refusal for a fault tries six times, and waits in between.
        assert [(one.host, one.connections) for one in result.network] == [("evil.example", 0)]
        assert 1 <= result.network[0].refused <= 3


async def test_nothing_but_the_proxy_is_reached(world: World) -> None:
    await world.accept()
    script = (
        "for a in 1.1.1.1 8.8.8.8 169.254.169.254 10.0.0.1 192.168.0.1; do"
        " env -i timeout 2 curl -sS -m 1 http://$a/ && echo REACHED; done;"
        " env -i timeout 2 curl -sS -m 1 --noproxy '*' http://[2606:4700::1111]/ && echo REACHED;"
        " getent hosts evil.example && echo RESOLVED; ls /sys/class/net; echo end"
    )
    result = await world.bash(script)
    assert "REACHED" not in result.output
    assert "RESOLVED" not in result.output
    assert "\nlo\n" in result.output or "No such file" in result.output


async def test_a_killed_proxy_comes_back_for_running_sandboxes(world: World, egress: EgressProcess) -> None:
    await world.accept()
    assert "not allowed" in (await world.bash("curl -sS https://evil.example/")).output
    [process] = proxies(egress)
    os.kill(int(process.parent.name), signal.SIGKILL)
    result = await world.bash("curl -sS -m 20 https://evil.example/")
    assert "response 403" in result.output


async def test_a_secret_is_nowhere_in_the_sandbox(
    world: World, capfd: pytest.CaptureFixture[str], egress: EgressProcess, tmp_path: Path
) -> None:
    await world.accept(secrets=("TOKEN",))
    await world.ask(("bash", {"command": "true"}))
    await world.gateway().work(world.build_id)
    stalled = [event for event in await world.events() if isinstance(event, SandboxStalled)]
    assert "nightshift secrets set TOKEN --account a1" in stalled[0].action
    world.secrets.put("a1", "TOKEN", CANARY, ["api.example.org"])
    await world.gateway().work(world.build_id)
    result = await world.bash(
        "echo $TOKEN; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -ac '[c]anary-0123';"
        " grep -rac '[c]anary-0123' /etc /home /tmp /opt /run 2>/dev/null | grep -v ':0$'; echo end"
    )
    assert result.output.split()[0].startswith("nightshift_secret_TOKEN_")
    assert result.output.split()[1:3] == ["0", "end"]
    world.secrets.put(
        "a1", "TOKEN", f"{CANARY}-2", ["api.example.org"]
    )  # the next value, while the build runs
    echoed = await world.bash(f"echo {CANARY}; echo {CANARY}-2; curl -sS https://api.example.org/$TOKEN")
    assert echoed.output.startswith(
        "[secret TOKEN]\n[secret TOKEN]\nnightshift egress proxy: api.example.org does not"
    )
    await world.bash(
        "env > env.txt; curl -sS https://api.example.org/$TOKEN > answer.txt; cat /proc/self/environ > raw"
    )
    saved = await world.save("completion")
    files = tmp_path / "files"
    files.mkdir()
    assert not await checkout(world.store(), await world.store().load(saved.key), files)
    kept = {path.name: path.read_bytes() for path in files.iterdir()}
    assert kept.keys() == {"env.txt", "answer.txt", "raw"}
    assert b"TOKEN=nightshift_secret_TOKEN_" in kept["env.txt"]
    stored = b"".join([*kept.values(), *world.objects.bodies.values()])
    assert CANARY.encode() not in stored
    results = [event for event in await world.events() if isinstance(event, ToolCallCompleted)]
    processes = [path.read_bytes() for path in proxies(egress)]
    assert CANARY not in str(results) + str(processes) + "".join(capfd.readouterr())


def proxies(egress: EgressProcess) -> list[Path]:
    """The command lines of the proxy process of this test."""
    own, found = str(egress.certificate.parent).encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        path = Path("/proc", pid, "cmdline")
        with contextlib.suppress(OSError):  # a process that ended meanwhile
            if own in path.read_bytes():
                found.append(path)
    return found


async def test_a_program_without_the_proxy_fails_at_once_with_the_reason(world: World) -> None:
    await world.accept()
    allowed = min(PUBLIC_REGISTRIES)
    await world.bash("true")  # opens the sandbox
    result = await world.bash(f"curl -sS --noproxy '*' https://{allowed}/")
    assert result.is_error
    assert result.duration_ms < 2_000
    assert "the network is reached through the proxy of HTTPS_PROXY" in result.output
    assert allowed in result.output.rpartition("This build may reach: ")[2]


async def test_secrets_are_refused_where_no_proxy_can_insert_them(world: World) -> None:
    world.hosts = None
    await world.accept(secrets=("TOKEN",))
    result = await world.prepare()
    assert (result.is_error, result.error_kind) == (True, "refused")
    assert "the secrets TOKEN cannot be used in a sandbox without a network" in str(result.output)
    assert "sandbox.opened" not in await world.types()


@pytest.mark.parametrize(("driver", "refused"), [("e2b", True), ("local", False)])
async def test_secrets_are_refused_at_e2b(
    world: World, driver: Literal["e2b", "local"], refused: bool
) -> None:
    await world.accept(secrets=("TOKEN",))
    state = await world.states().read(world.build_id)
    why = NetworkPolicy(frozenset(), world.secrets, driver).refusal(state)
    assert (why is not None and "at E2B" in why) is refused


async def test_source_commands_and_variables_prepare_the_workspace(world: World, tmp_path: Path) -> None:
    world.secrets.put("a1", "TOKEN", CANARY, ["git.example.org"])
    await world.accept(
        setup_commands=("echo $MODE > mode.txt", "echo broken; exit 3", "touch never"),
        environment={"MODE": "night"},
        secrets=("TOKEN",),
        egress_hosts=("api.example.org",),
    )
    result = await world.prepare()
    assert not result.is_error
    for words in (
        *(
            "`echo $MODE > mode.txt` ended with exit code 0",
            "exit code 3",
            "broken",
            "variables are set for you: MODE",
        ),
        *(
            "api.example.org",
            "The variable TOKEN holds a placeholder",
            "git.example.org",
            "python3: Python 3",
        ),
    ):
        assert words in result.output, result.output
    assert "never" not in (await world.bash("cat mode.txt; ls; echo $MODE")).output
    assert "night\n" in (await world.bash("cat mode.txt; echo $MODE")).output


async def test_a_repository_that_cannot_be_cloned_is_an_error(world: World) -> None:
    await world.accept(source=Source(repository="https://git.example.invalid/x.git", ref="main"))
    result = await world.prepare()
    assert result.is_error
    assert "could not be cloned" in result.output
    assert "git.example.invalid does not resolve" in result.output
