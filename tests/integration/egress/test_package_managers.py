"""Package managers work through the proxy without configuration. Each test needs a public registry.

They download for half a minute, so `make test-registries` runs them, and they skip where the registry is unreachable.
"""

import os
import socket

import pytest
from tests.support.gateway_world import World

from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.hosts import PUBLIC_REGISTRIES

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("NIGHTSHIFT_REGISTRY_TESTS"), reason="downloads; `make test-registries` runs it"
    ),
    pytest.mark.timeout(300),
]


def needs(word: str) -> None:
    [host] = (host for host in PUBLIC_REGISTRIES if word in host)
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        pytest.skip(f"{host} cannot be reached from this machine")


async def slow(world: World, command: str) -> ToolCallCompleted:
    return (await world.run(("bash", {"command": command, "timeout_s": 240}), timeout_s=250))[0]


async def test_npm_installs_three_hundred_packages(world: World) -> None:
    needs("npm")
    await world.accept()
    await world.bash("npm init -y >/dev/null")
    result = await slow(world, "npm install --no-audit eslint webpack jest 2>&1 | tail -3")
    assert not result.is_error, result.output
    count = await world.bash("ls -d node_modules/* node_modules/@*/* | wc -l")
    assert int(count.output.split()[0]) >= 300
    assert result.network is not None
    assert result.network[0].received > 10_000_000


async def test_pip_installs_a_compiled_wheel(world: World) -> None:
    needs("pypi")
    await world.accept()
    result = await slow(
        world,
        "python3 -m venv v && v/bin/pip install -q --only-binary :all: markupsafe 2>&1 | tail -3;"
        " v/bin/python -c 'import markupsafe._speedups as s; print(s.__file__)'",
    )
    assert "_speedups" in result.output, result.output
