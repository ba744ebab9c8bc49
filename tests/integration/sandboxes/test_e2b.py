"""What is E2B's own: lost answers, refusals, vanished and half-made sandboxes."""

import pytest
from tests.integration.sandboxes.conftest import e2b_driver
from tests.support.e2b_server import E2BServer

from nightshift.eventlog.errors import ConfigurationError
from nightshift.sandboxes.adapters.e2b import E2BDriver
from nightshift.sandboxes.errors import SandboxGone, SandboxUnavailable
from nightshift.sandboxes.port import CallSpec, NetworkRules
from nightshift.sandboxes.settings import SandboxSettings, make_driver


@pytest.fixture
def driver(e2b_server: E2BServer) -> E2BDriver:
    return e2b_driver(e2b_server)


async def test_a_create_whose_answer_was_lost_makes_one_sandbox(
    e2b_server: E2BServer, driver: E2BDriver
) -> None:
    e2b_server.fail("create", 503, 429, 502)
    sandbox = await driver.create("b1", generation=0)
    assert e2b_server.creates == 1
    assert await sandbox.alive()


@pytest.mark.parametrize(
    ("rules", "network"),
    [
        (None, {"allow_internet_access": False}),
        (
            NetworkRules(frozenset({"b.example", "a.example"})),
            {
                "allow_internet_access": True,
                "allowOut": ["a.example", "b.example"],
                "denyOut": ["0.0.0.0/0"],
            },
        ),
    ],
)
async def test_a_sandbox_reaches_only_the_hosts_of_its_rules(
    e2b_server: E2BServer, driver: E2BDriver, rules: NetworkRules | None, network: dict[str, object]
) -> None:
    sandbox = await driver.create("b1", generation=0, network=rules)
    assert e2b_server.boxes[sandbox.id].network == network


async def test_a_provider_that_is_down_is_transient(e2b_server: E2BServer, driver: E2BDriver) -> None:
    e2b_server.fail("list", *[503] * 4)
    with pytest.raises(SandboxUnavailable):
        await driver.create("b1", generation=0)
    assert e2b_server.creates == 0


async def test_a_vanished_sandbox_raises_gone_during_and_after_a_call(
    e2b_server: E2BServer, driver: E2BDriver
) -> None:
    sandbox = await driver.create("b1", generation=0)
    await sandbox.start_call(CallSpec("b1/1/0", ["sleep", "60"]))
    await e2b_server.vanish(sandbox.id)
    with pytest.raises(SandboxGone):
        await sandbox.wait_call("b1/1/0", wait_s=5)
    with pytest.raises(SandboxGone):
        await driver.connect(sandbox.id)
    assert (await driver.create("b1", generation=1)).id != sandbox.id


async def test_create_replaces_a_sandbox_that_never_became_ready(
    e2b_server: E2BServer, driver: E2BDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(E2BDriver, "_install", dies)
        with pytest.raises(KeyboardInterrupt):
            await driver.create("b1", generation=0)
    sandbox = await driver.create("b1", generation=0)
    assert e2b_server.creates == 1
    await sandbox.write_file("works", b"1")


async def test_a_sandbox_with_the_record_of_another_is_refused(
    e2b_server: E2BServer, driver: E2BDriver
) -> None:
    sandbox = await driver.create("b1", generation=0)
    journal = e2b_server.boxes[sandbox.id].home / ".nightshift" / "journal"
    journal.write_bytes(journal.read_bytes().replace(sandbox.id.encode(), b"another-one"))
    with pytest.raises(SandboxGone, match="of another sandbox"):
        await driver.connect(sandbox.id)


async def test_the_settings_choose_the_driver(e2b_server: E2BServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_S3_BUCKET", "b")
    monkeypatch.setenv("E2B_API_URL", e2b_server.url)
    monkeypatch.setenv("E2B_SANDBOX_URL", e2b_server.url)
    with pytest.raises(ConfigurationError, match="E2B_API_KEY"):
        await make_driver(SandboxSettings.load(sandbox_driver="e2b"))
    monkeypatch.setenv("E2B_API_KEY", "e2b_" + "1" * 40)
    driver = await make_driver(SandboxSettings.load())
    assert driver.name == "e2b"
    assert await driver.list() == []
    assert SandboxSettings.load(sandbox_driver="local").driver_name == "local"
