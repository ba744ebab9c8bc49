"""A whole stack for fault tests: sends requests to its broker and reads builds with the reader's role."""

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import psutil
from tests.support.local_files import text_in_sandbox
from tests.support.processes import RunningUp, nightshift
from tests.support.waiting import eventually

from nightshift.bus.dead_letters import DeadLetters
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.kafka.reader import KafkaReader
from nightshift.bus.port import Outgoing
from nightshift.bus.settings import KafkaSettings
from nightshift.cli.build_status import BuildStatus, evolve
from nightshift.cli.connect import settings_for
from nightshift.cli.producer import checked, send
from nightshift.cli.queries import Builds, open_builds
from nightshift.contracts.events.account import AccountOpened
from nightshift.contracts.events.build import (
    BuildPhaseChanged,
    BuildReady,
    CheckpointSaved,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    ToolCallRequested,
)
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import Event
from nightshift.devstack.stack.home import read_stack
from nightshift.eventlog.errors import NotFound, Unavailable
from nightshift.eventlog.port import RecordedEvent

RICH = "rich"
#: Words that only the demo's brief has, and the line that each of its steps leaves. The fifth step leaves none.
DEMO_WORDS = "one ladder per house"
DEMO_STEPS = (
    *("scaffold", "store", "tests", "first test run", None, "mend", "second test run", "page"),
    *("install", "start", "try it", "preview", "document"),
)
SERVICES = ("relay", "orchestrator", "sandbox-gateway", "snapshotter", "budget")
#: What shows that the steps of a build were taken: they have neither tests nor a preview.
STEPS_CHECK = {"name": "steps", "command": "test -s STEPS.md"}
#: Microdollars a day, more than any build here can spend.
_PLENTY = 1_000_000_000
_DAYS = 30

E = TypeVar("E", bound=Event)
Happened = Callable[[Sequence[RecordedEvent]], bool]


class MainJob:
    """A running stack. The first words of a brief choose the part of the scenario that a build plays."""

    def __init__(self, start: Callable[[], RunningUp]) -> None:
        """`start` runs `nightshift up`, always on the same home."""
        self._start = start
        self.up = start()
        self.home = self.up.home
        self.told: dict[str, Any] = {}

    def ready(self) -> None:
        """Waits until the stack is up."""
        self.told = self.up.ready()

    def restart(self) -> None:
        """Stops the stack with SIGINT and starts it again."""
        assert self.up.interrupt() == 0, self.up.stderr()
        assert self.up.leftovers() == []
        self.up.end()
        self.up = self._start()
        self.ready()

    def process(self, name: str) -> psutil.Process | None:
        """Returns the process of a service, of postgres or of kafka, or None while it is down."""
        told = read_stack(self.home) or {}
        [one, *_] = told.get("services", {}).get(name) or [told.get(name, {})]
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            process = psutil.Process(one["pid"])
            return process if process in self.up.children() else None
        return None

    async def open_account(self, account: str, *, day_microusd: int = _PLENTY) -> None:
        """Opens an account and waits until the budget service has it."""
        fields = {
            "account_id": account,
            "period_budget_microusd": day_microusd * _DAYS,
            "period_days": _DAYS,
            "time_zone": "UTC",
        }
        await send(self.home, checked(AccountOpened, fields))
        async with open_builds(self.home) as builds:
            await eventually(lambda: builds.has_account(account), 20, what=f"account {account}")

    async def ask(self, brief: str, *, account: str = RICH, **fields: Any) -> str:
        """Requests a build over the broker and returns its id."""
        build_id = fields.pop("build_id", None) or f"b-{uuid4().hex[:10]}"
        given: dict[str, Any] = {
            "build_id": build_id,
            "project_id": build_id,
            "account_id": account,
            "idea_brief": brief,
        }
        given["checks"] = [STEPS_CHECK]
        await send(self.home, checked(BuildRequested, given | fields))
        return build_id

    async def produce(self, key: str, value: bytes, headers: Mapping[str, str]) -> None:
        """Sends raw bytes to the requests topic."""
        settings = settings_for(KafkaSettings, self.home)
        told = tuple((name, text.encode()) for name, text in headers.items())
        async with KafkaProducer(settings, client_id="test") as producer:
            await producer.send([Outgoing(settings.topics.requests, key.encode(), value, told)])

    async def events(self, build_id: str) -> list[RecordedEvent]:
        """Returns the build's events so far, none when the build does not exist."""
        async with open_builds(self.home) as builds:
            return await _events(builds, build_id)

    async def until(
        self,
        build_id: str,
        happened: Happened,
        timeout: float = 30.0,
        *,
        what: str = "it",
        promised: bool = False,
    ) -> list[RecordedEvent]:
        """Waits until `happened` holds for the build's events and returns the events."""
        async with open_builds(self.home) as builds:
            return await until(builds, build_id, happened, timeout, what=what, promised=promised)

    def steps(self, build_id: str, events: Sequence[RecordedEvent]) -> list[str]:
        """Returns the lines that the build's steps left in the workspace of its last sandbox."""
        sandbox_id = status(build_id, events).sandbox_id
        assert sandbox_id is not None
        return text_in_sandbox(self.home, sandbox_id, "STEPS.md").splitlines()

    def command(self, *arguments: str, code: int = 0, timeout: float = 50.0) -> list[Any]:
        """Runs a command with --json on this stack and returns the objects that it printed."""
        ran = nightshift(*arguments, "--json", "--home", str(self.home), timeout=timeout)
        assert ran.returncode == code, (ran.returncode, ran.stderr)
        return [json.loads(line) for line in ran.stdout.splitlines()]

    async def parked(self) -> list[dict[str, Any]]:
        """Returns key, reason, error and size of every dead letter."""
        settings = settings_for(KafkaSettings, self.home)
        topics = settings.topics
        known = [topic for topic in topics.all if topic != topics.dead_letter]
        letters = DeadLetters(KafkaReader(settings), topic=topics.dead_letter, known_topics=known)
        return [
            {
                "key": None if letter.key is None else letter.key.decode(),
                "reason": letter.reason,
                "error": letter.error,
                "bytes": letter.value_bytes,
            }
            for letter in [each.dead_letter for each in await letters.list()]
        ]


async def until(
    builds: Builds, build_id: str, happened: Happened, timeout: float, *, what: str, promised: bool = False
) -> list[RecordedEvent]:
    """Waits until `happened` holds for the build's events. Raises AssertionError with the last events."""
    seen: list[RecordedEvent] = []

    async def look() -> list[RecordedEvent] | None:
        seen.extend(await _events(builds, build_id, after=len(seen)))
        return seen if happened(seen) else None

    try:
        found = await eventually(look, timeout, what=f"{build_id}: {what}", promised=promised)
    except AssertionError as error:
        raise AssertionError(f"{build_id}: {what}: not within {timeout} s\n{told(seen[-8:])}") from error
    assert found is not None
    return found


async def _events(builds: Builds, build_id: str, *, after: int = 0) -> list[RecordedEvent]:
    with contextlib.suppress(
        NotFound, Unavailable
    ):  # the build does not exist yet, or a test has killed the server
        return await builds.events(build_id, after=after)
    return []


def status(build_id: str, events: Sequence[RecordedEvent]) -> BuildStatus:
    """Returns the build's status after these events."""
    state = BuildStatus(build_id)
    for event in events:
        state = evolve(state, event)
    return state


def ended(events: Sequence[RecordedEvent]) -> bool:
    """Whether the build has ended."""
    return any(event.data.terminal for event in events)


def has(*kinds: type[Event], times: int = 1) -> Happened:
    """Returns a condition: at least `times` events are of these types."""
    return lambda events: sum(isinstance(event.data, kinds) for event in events) >= times


def of(events: Sequence[RecordedEvent], kind: type[E]) -> list[E]:
    """Returns the data of the events of one type."""
    return [event.data for event in events if isinstance(event.data, kind)]


def assert_in_order(events: Sequence[RecordedEvent]) -> None:
    """Checks the invariants of a build's events, which hold whatever was killed."""
    assert [event.version for event in events] == list(range(1, len(events) + 1))
    asked: set[str] = set()
    answered: Counter[str] = Counter()
    in_flight: ModelCallStarted | None = None
    phase, turn, saved = "queued", 0, 0
    for event in events:
        match event.data:
            case BuildPhaseChanged() as fact:
                assert fact.from_phase == phase, event
                phase = fact.to_phase
            case ModelCallStarted() as fact:
                assert in_flight is None, f"two model calls at once at {event.version}"
                assert asked <= set(answered), f"a model call before all results at {event.version}"
                in_flight = fact
            case ModelCallResponded() | ModelCallFailed() as fact:
                assert in_flight is not None, f"an answer to nothing at {event.version}"
                assert (in_flight.role, in_flight.turn, in_flight.attempt) == (
                    fact.role,
                    fact.turn,
                    fact.attempt,
                )
                if isinstance(fact, ModelCallResponded) and fact.role in (None, "builder"):
                    assert fact.turn == turn + 1, f"turn {fact.turn} after {turn}"
                    turn = fact.turn
                in_flight = None
            case ToolCallRequested() as fact:
                assert fact.call_id not in asked, f"{fact.call_id} was asked for twice"
                asked.add(fact.call_id)
            case ToolCallCompleted() as fact:
                assert fact.call_id in asked, f"{fact.call_id} was answered before it was asked for"
                answered[fact.call_id] += 1
            case CheckpointSaved() as fact:
                assert saved < fact.turn <= turn, f"checkpoint of turn {fact.turn} after {saved}"
                saved = fact.turn
            case _:
                pass
    assert answered == Counter(asked), "each call has one result"


def assert_ready(
    job: MainJob, build_id: str, events: Sequence[RecordedEvent], *, steps: int | Sequence[str]
) -> BuildReady:
    """Checks that the build is ready, its events are in order, its bill adds up, and each step ran once.

    `steps` is the number of steps, or the lines that they leave.
    """
    assert status(build_id, events).state == "ready", status(build_id, events)
    assert_in_order(events)
    [ready] = of(events, BuildReady)
    calls = [*of(events, ModelCallResponded), *of(events, ModelCallFailed)]
    assert ready.cost_microusd == sum(call.cost_microusd for call in calls)
    wanted = [f"step {number}" for number in range(steps)] if isinstance(steps, int) else list(steps)
    lines = job.steps(build_id, events)
    assert lines == wanted, f"{lines}\n{told(events)}"
    return ready


def told(events: Sequence[RecordedEvent]) -> str:
    """Returns the events as lines for a message."""
    return "\n".join(f"{one.version} {one.recorded_at:%M:%S.%f} {one.data!r:.240}" for one in events)


@contextlib.contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Stops the process with SIGSTOP until the block ends."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


async def letters(job: MainJob, about: str, *, count: int = 1) -> list[dict[str, Any]]:
    """Waits for `count` dead letters that mention `about` and returns them."""

    found: list[dict[str, Any]] = []

    async def look() -> list[dict[str, Any]] | None:
        found[:] = [one for one in await job.parked() if about in str(one)]
        assert len(found) >= count, found
        return found

    await eventually(look, 45, what=f"{count} dead letters about {about}")
    return found
