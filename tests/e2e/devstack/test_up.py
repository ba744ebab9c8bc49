"""`nightshift up` and `ps` as a person or a script uses them."""

import json
import re
import signal
import socket
import subprocess
from pathlib import Path

import asyncpg
import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from tests.support.processes import NIGHTSHIFT, clean_environment, nightshift, running_up
from tests.support.stack import Database

from nightshift.contracts.topics import Topics
from nightshift.devstack.parts import KafkaAddress, S3Address

PARTS = "postgres,kafka,s3,model"
#: What the first line holds: scripts of others rely on it.
SHAPE = {
    "home": str,
    "postgres": {"dsn": str, "pid": int},
    "kafka": {"bootstrap": str, "pid": int},
    "s3": {
        "endpoint": str,
        "bucket": str,
        "access_key": str,
        "secret_key": str,
        "region": str,
        "pid": int,
    },
    "model": {"base_url": str, "pid": int},
    "services": dict,
}


def shape(told: object) -> object:
    """Names as they are, values as their types."""
    return {name: shape(value) for name, value in told.items()} if isinstance(told, dict) else type(told)


@pytest.fixture
def home(stack_folder: Path, request: pytest.FixtureRequest) -> Path:
    return stack_folder / request.node.name / "home"


async def _topics(bootstrap: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def test_everything_answers_where_it_says_and_the_data_stays(home: Path, eventually) -> None:
    with running_up(home, "--only", PARTS) as up:
        told = up.ready()
        assert shape({**told, "services": None}) == {**SHAPE, "services": type(None)}
        assert told["services"] == {}
        assert list(told) == list(SHAPE)
        assert told["home"] == str(home)
        assert json.loads((home / "stack.json").read_text()) == told
        assert json.loads(nightshift("ps", "--json", "--home", str(home)).stdout) == told
        assert {one.pid for one in up.children()} >= {told[part]["pid"] for part in PARTS.split(",")}

        connection = await asyncpg.connect(told["postgres"]["dsn"])
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
        assert await connection.fetchval("SELECT to_regclass('nightshift.events')") is not None
        await connection.close()
        assert set(Topics().all) <= await _topics(told["kafka"]["bootstrap"])
        async with httpx.AsyncClient() as client:
            key = f"{told['s3']['endpoint']}/{told['s3']['bucket']}/kept"
            assert (await client.put(key, content=b"42")).status_code == 200
            assert (await client.get(f"{told['model']['base_url']}/_requests")).json() == []

        assert up.interrupt() == 0
        assert up.process.stdout.read() == "", "the first line is all there is on stdout"
        await eventually(lambda: not up.leftovers())
    assert nightshift("ps", "--home", str(home)).returncode == 5

    with running_up(home, "--only", "postgres,s3") as up:
        again = up.ready()
        assert (again["postgres"]["dsn"], again["s3"]["endpoint"]) == (
            told["postgres"]["dsn"],
            told["s3"]["endpoint"],
        )
        connection = await asyncpg.connect(again["postgres"]["dsn"])
        assert await connection.fetchval("SELECT n FROM kept") == 42
        await connection.close()
        async with httpx.AsyncClient() as client:
            assert (await client.get(key)).content == b"42"
        assert up.interrupt(signal.SIGTERM) == 0


@pytest.mark.fault
async def test_every_child_that_is_killed_comes_back_and_it_is_said(home: Path, eventually) -> None:
    with running_up(home, "--only", PARTS) as up:
        told = up.ready()
        for part in PARTS.split(","):
            old = told[part]["pid"]
            next(one for one in up.children() if one.pid == old).kill()

            def replaced(part: str = part, old: int = old) -> bool:
                now = json.loads((home / "stack.json").read_text())
                return now[part]["pid"] != old

            await eventually(replaced, timeout=30)
            assert f"(process {old}) was ended by SIGKILL; starting it again" in up.stderr()
        now = json.loads(nightshift("ps", "--json", "--home", str(home)).stdout)
        for part in PARTS.split(","):
            restarts = now[part].pop("restarts")
            assert (restarts["exits"], restarts["keeps_restarting"]) == (1, False)
            assert {**now[part], "pid": 0} == {**told[part], "pid": 0}, "it comes back at the same address"
        assert up.stderr().count("runs again") == 4
        connection = await asyncpg.connect(now["postgres"]["dsn"])
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        assert set(Topics().all) <= await _topics(now["kafka"]["bootstrap"]), "made again on the empty broker"


@pytest.mark.fault
async def test_nothing_is_left_when_it_is_killed(home: Path, eventually) -> None:
    with running_up(home, "--only", "postgres,kafka,s3") as up:
        up.ready()
        assert len(up.children()) > 3
        up.process.kill()
        up.process.wait()
        await eventually(lambda: not up.leftovers())
    answer = nightshift("ps", "--json", "--home", str(home))
    assert (answer.returncode, answer.stdout) == (5, ""), "what a killed stack left behind is not believed"
    with running_up(home, "--only", "postgres") as up:
        up.ready()


async def test_an_interrupt_while_it_starts_leaves_nothing(home: Path, eventually) -> None:
    with running_up(home, "--only", "postgres,kafka") as up:
        await eventually(up.children, timeout=20)
        assert up.interrupt() == 130
        await eventually(lambda: not up.leftovers())
    with running_up(home, "--only", "postgres") as up:
        up.ready()


def test_two_homes_run_side_by_side_and_one_home_has_one_stack(home: Path) -> None:
    with (
        running_up(home, "--only", "kafka,s3") as first,
        running_up(home.with_name("b"), "--only", "s3") as second,
    ):
        one, other = first.ready(), second.ready()
        assert one["s3"]["endpoint"] != other["s3"]["endpoint"]
        refused = nightshift("up", "--home", str(home), "--only", "s3")
        assert refused.returncode == 4
        assert f"a stack runs on {home} already (process {first.process.pid})" in refused.stderr
        assert "hint: " in refused.stderr
        assert json.loads((home / "stack.json").read_text()) == one, "the refused one took nothing away"


@pytest.mark.parametrize("part", ["kafka", "s3", "postgres", "model"])
def test_a_taken_port_is_named(home: Path, part: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = nightshift("up", "--home", str(home), "--only", part, f"--{part}-port", str(port))
    assert answer.returncode == 4
    assert f"port {port} is taken by another program" in answer.stderr
    assert answer.stdout == ""


def test_a_missing_binary_is_named(home: Path) -> None:
    answer = nightshift("up", "--home", str(home), "--only", "kafka", env={"CALF_TANSU_BIN": "/no/such/file"})
    assert answer.returncode == 4
    assert "the embedded broker is not installed" in answer.stderr
    assert "NIGHTSHIFT_KAFKA_BOOTSTRAP" in answer.stderr


def test_a_failing_program_is_shown_with_its_log_and_stops_up(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broker"
    broken.write_text("#!/bin/sh\necho 'no disk today' >&2\nexit 7\n")
    broken.chmod(0o755)
    with running_up(home, "--only", "kafka,s3", env={"CALF_TANSU_BIN": str(broken)}) as up:
        assert up.process.wait(timeout=30) == 1
        assert "kafka (tansu) ended with code 7 while starting" in up.stderr()
        assert "no disk today" in up.stderr()
        assert str(home / "logs" / "kafka.log") in up.stderr()
        assert not up.leftovers()


def test_a_broken_scenario_is_told_before_anything_starts(home: Path, tmp_path: Path) -> None:
    scenario = tmp_path / "s.yaml"
    scenario.write_text("name: x\nturns:\n- speak: up\n")
    answer = nightshift("up", "--home", str(home), "--only", "model", "--scenario", str(scenario))
    assert answer.returncode == 4
    assert "turn 1 (line 3): speak: Extra inputs are not permitted" in answer.stderr


def test_parts_of_somebody_else_are_used_and_not_started(
    home: Path, kafka: KafkaAddress, s3: S3Address
) -> None:
    given = {
        "NIGHTSHIFT_KAFKA_BOOTSTRAP": kafka.bootstrap,
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": "http://m",
    }
    with running_up(home, "--only", "kafka,s3,model", "--s3", s3.endpoint, env=given) as up:
        told = up.ready()
        assert told["kafka"] == {"bootstrap": kafka.bootstrap, "pid": None}
        assert (told["s3"]["endpoint"], told["s3"]["pid"]) == (s3.endpoint, None)
        assert told["model"] == {"base_url": "http://m", "pid": None}
        assert up.children() == []
        assert nightshift("ps", "--home", str(home)).stdout.count("not started by this stack") == 3


async def test_a_password_is_told_to_scripts_and_shown_to_nobody(
    home: Path, database: Database, eventually
) -> None:
    dsn = database.dsn().replace("postgres@", "postgres:hunter2@", 1)
    with running_up(home, "--only", "postgres", "--postgres", dsn) as up:
        assert up.ready()["postgres"] == {"dsn": dsn, "pid": None}
        assert json.loads(nightshift("ps", "--json", "--home", str(home)).stdout)["postgres"]["dsn"] == dsn
        shown = nightshift("ps", "--home", str(home)).stdout
        assert "postgres:***@127.0.0.1" in shown
        assert "hunter2" not in shown
    with (home.parent / "shown").open("w+") as shown_file:
        told_a_person = [*NIGHTSHIFT, "up", "--home", str(home), "--only", "postgres", "--postgres", dsn]
        process = subprocess.Popen(  # noqa: ASYNC220 - started and ended at once
            told_a_person, stdout=shown_file, env=clean_environment()
        )
        try:
            await eventually(lambda: "Press Ctrl-C" in (home.parent / "shown").read_text(), 30)
        finally:
            process.terminate()
            process.wait(timeout=20)
    shown = (home.parent / "shown").read_text()
    assert "postgres:***@127.0.0.1" in shown
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "postgres,moon"), "there is no part or service called moon"),
        (("--only", "relay"), "relay needs postgres"),
        (("--replicas", "relay=two"), "--replicas relay=two is not understood"),
        (("--replicas", "moon=2"), "there is no service called moon"),
        (("--kafka-port", "80000"), "--kafka-port 80000 is no port"),
        (("--postgres-port=-1",), "--postgres-port -1 is no port"),
    ],
)
def test_what_does_not_fit_together_is_refused(home: Path, arguments: tuple[str, ...], said: str) -> None:
    answer = nightshift("up", "--home", str(home), *arguments)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "hint: " in answer.stderr
    assert not home.exists()


def test_a_scenario_that_is_not_there_is_said_before_anything_starts(home: Path) -> None:
    answer = nightshift("up", "--home", str(home), "--scenario", "/no/such/file")
    assert answer.returncode == 4
    assert "scenario /no/such/file cannot be read: No such file or directory" in answer.stderr
    assert not (home / "postgres").exists()


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--only", "postgres", "--postgres", "log.example:5432"), "PostgreSQL: invalid DSN", 4),
        (("--only", "postgres", "--postgres", "postgresql://u:hunter2@127.0.0.1:9/x"), "PostgreSQL: ", 1),
        (("--only", "kafka", "--kafka", "127.0.0.1:9"), "the broker at 127.0.0.1:9 does not answer", 1),
    ],
)
def test_an_address_where_nobody_answers_is_named_with_its_setting(
    home: Path, arguments: tuple[str, ...], said: str, code: int
) -> None:
    answer = nightshift("up", "--home", str(home), *arguments)
    assert answer.returncode == code
    assert f"error: {said}" in answer.stderr
    assert re.search(r"^hint: .*NIGHTSHIFT_(POSTGRES_DSN|KAFKA_BOOTSTRAP)", answer.stderr, re.MULTILINE)
    assert "hunter2" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    answer = nightshift("up", "--home", str(file / "home"), "--only", "s3")
    assert answer.returncode == 4
    assert f"error: {file / 'home'} cannot be the folder of a stack: Not a directory" in answer.stderr
    assert "hint: choose another folder with --home" in answer.stderr


@pytest.mark.fault
async def test_services_run_as_asked_and_come_back(home: Path, eventually) -> None:
    with running_up(home, "--only", "postgres,kafka,s3,relay", "--replicas", "relay=2") as up:
        told = up.ready()
        assert [list(replica) for replica in told["services"]["relay"]] == [["pid"], ["pid"]]
        assert list(told["services"]) == ["relay"]
        one, other = (replica["pid"] for replica in told["services"]["relay"])
        next(child for child in up.children() if child.pid == one).kill()

        def replaced() -> bool:
            now = json.loads((home / "stack.json").read_text())["services"]["relay"]
            return now[0]["pid"] != one and now[1]["pid"] == other

        await eventually(replaced, timeout=40)
        assert f"relay (process {one}) was ended by SIGKILL; starting it again" in up.stderr()
        assert up.interrupt() == 0
        await eventually(lambda: not up.leftovers())
        assert '"service.stopped"' in (home / "logs" / "relay-2.log").read_text(), "it could drain"
