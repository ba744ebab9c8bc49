"""Repeats the recorded tool calls of a build in a fresh sandbox, without a model. The command line imports this
module.

The sandbox gateway's own use cases run the calls, on a log in memory. So a call behaves here as it would in the
service.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nightshift.contracts.events.build import BuildAccepted, BuildForked, ToolCallRequested
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.fold_cache import FoldCache
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.memory import MemoryEventLog
from nightshift.eventlog.objects.memory import MemoryObjectStore
from nightshift.eventlog.port import NewEvent, RecordedEvent, build_stream
from nightshift.sandbox_gateway.adapters.preview_probe import HttpPreviewProbe
from nightshift.sandbox_gateway.domain.normalisation import first_difference, normalised
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState, evolve
from nightshift.sandbox_gateway.usecases.build_worker import BuildWorker
from nightshift.sandbox_gateway.usecases.call_runner import CallRunner
from nightshift.sandbox_gateway.usecases.failpoints import FailPoints
from nightshift.sandbox_gateway.usecases.network import NetworkPolicy
from nightshift.sandbox_gateway.usecases.result_writer import ResultWriter
from nightshift.sandbox_gateway.usecases.sandbox_lifecycle import SandboxLifecycle
from nightshift.sandbox_gateway.usecases.source_delivery import SourceDelivery
from nightshift.sandbox_gateway.usecases.stall_reporter import StallReporter
from nightshift.sandboxes.agent.held_directories import HOME
from nightshift.sandboxes.egress.secret_store import SecretStore
from nightshift.sandboxes.port import SandboxDriver
from nightshift.sandboxes.snapshots.restore import differences
from nightshift.sandboxes.snapshots.store import SnapshotStore

#: Results that depend on other things than the call: the sandbox was lost, or the build ended before.
_NOT_RUN = frozenset({"sandbox_lost", "cancelled"})
#: How often a group of calls is tried while the sandbox does not answer.
_TRIES = 5
#: Folders that are not compared, and why: their files differ though the same was done.
_LEFT_OUT = {".git/": "times of git", f"{HOME}/": "files of tools in the home"}


@dataclass(frozen=True, slots=True)
class RedrivenCall:
    """The comparison of one repeated tool call with its recorded result. `difference` is None when both are equal.

    `normalised` names parts of the output that vary in every run, such as durations; the comparison ignores them.
    `skipped` says why the call was not repeated, or is None.
    """

    turn: int
    version: int
    call_id: str
    tool: str
    difference: str | None = None
    normalised: frozenset[str] = frozenset()
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class RedrivenTree:
    """The result of comparing the files after a turn with the snapshot that was recorded then.

    `paths` maps each path that differs to how it differs.
    """

    turn: int
    version: int
    equal_digest: bool
    paths: dict[str, str] = field(default_factory=dict)
    normalised: frozenset[str] = frozenset()

    @property
    def difference(self) -> str | None:
        """The first path that differs, in words, or None when no path differs."""
        if not self.paths:
            return None
        path, how = next(iter(self.paths.items()))
        more = f" (and {len(self.paths) - 1} more paths)" if len(self.paths) > 1 else ""
        return f"{path}: {how}{more}"


class Redrive:
    """Repeats the tool calls of a build on `driver`. If a snapshot `store` is given, also compares the files after
    each turn.
    """

    def __init__(
        self, events: Sequence[RecordedEvent], driver: SandboxDriver, store: SnapshotStore | None, name: str
    ) -> None:
        """Prepare a redrive. `name` is the name of the driver."""
        self._events = events
        self._driver = driver
        self._store = store
        self._build_id = events[0].subject
        self._log = MemoryEventLog(actor="redrive")
        self._states = FoldCache(self._log, SandboxState, evolve)
        self._secrets = SecretStore(Path("/nonexistent"))
        self._name = name
        self._results = {
            one.data.call_id: one.data for one in events if isinstance(one.data, ToolCallCompleted)
        }
        self._snapshots = {
            one.data.at_version: one.data for one in events if isinstance(one.data, SnapshotSaved)
        }

    async def run(self) -> AsyncIterator[RedrivenCall | RedrivenTree]:
        """Repeat the calls. Yields a comparison for each call and each snapshot, in the order of the log.

        Kills the sandbox at the end.
        """
        async with HttpPreviewProbe() as probe:
            worker = self._worker(probe)
            try:
                waiting: list[RecordedEvent] = []
                for event in self._events:
                    if isinstance(event.data, BuildAccepted | BuildForked):
                        await self._append(event.data, event)
                    elif isinstance(event.data, ToolCallRequested):
                        waiting.append(event)
                        continue
                    for call in await self._called(worker, waiting):
                        yield call
                    waiting.clear()
                    if (saved := self._snapshots.get(event.version)) is not None and self._store is not None:
                        tree = await self._tree(event, saved)
                        if tree is not None:
                            yield tree
            finally:
                await self._end()

    def _worker(self, probe: HttpPreviewProbe) -> BuildWorker:
        fail = FailPoints()
        stalls = StallReporter(self._log, self._states)
        network = NetworkPolicy(None, self._secrets, self._name)  # type: ignore[arg-type]  # the driver's own name
        lifecycle = SandboxLifecycle(self._log, self._driver, self._project_store, stalls, fail, network)
        objects = MemoryObjectStore()
        writer = ResultWriter(self._log, objects, self._secrets.values, fail)
        return BuildWorker(
            states=self._states,
            leases=MemoryLeases(),
            owner="redrive",
            lifecycle=lifecycle,
            calls=CallRunner(lifecycle, writer, probe, SourceDelivery(lifecycle, objects)),
            stalls=stalls,
        )

    def _project_store(self, project_id: str) -> SnapshotStore:
        if self._store is None:
            raise Unavailable(
                "a fork begins with the files of its base, and the snapshots cannot be read",
                hint="set NIGHTSHIFT_SNAPSHOT_KEY, or name the folder of the stack with --home",
            )
        return self._store

    async def _append(self, data: Event, event: RecordedEvent) -> None:
        await self._log.append(build_stream(self._build_id), [NewEvent(data, event.causation_id)])

    async def _called(self, worker: BuildWorker, asked: Sequence[RecordedEvent]) -> list[RedrivenCall]:
        run: list[RecordedEvent] = []
        found: list[RedrivenCall] = []
        for event in asked:
            recorded = self._results.get(_call(event).call_id)
            why = _why_not(recorded, event)
            if why is None:
                run.append(event)
            else:
                found.append(_outcome(event, skipped=why))
        if not run:
            return found
        new = [NewEvent(one.data, one.event_id) for one in run]
        await self._log.append(build_stream(self._build_id), new)
        for _ in range(_TRIES):
            await worker.work(self._build_id)
            if not (await self._states.read(self._build_id)).pending:
                break
        results = {
            one.data.call_id: one.data
            async for one in self._log.read_stream(build_stream(self._build_id))
            if isinstance(one.data, ToolCallCompleted)
        }
        return [*found, *(self._compared(one, results) for one in run)]

    def _compared(self, event: RecordedEvent, results: dict[str, ToolCallCompleted]) -> RedrivenCall:
        call_id = _call(event).call_id
        then, now = self._results[call_id], results.get(call_id)
        if now is None:
            return _outcome(event, difference="it has no result here: the sandbox does not answer")
        for name in ("is_error", "error_kind", "exit_code"):
            if getattr(then, name) != getattr(now, name):
                return _outcome(
                    event, difference=f"{name}: recorded {getattr(then, name)}, now {getattr(now, name)}"
                )
        before, one = normalised(str(then.output))
        after, two = normalised(str(now.output))
        changed = one | two if str(then.output) != str(now.output) else frozenset[str]()
        difference = first_difference(before, after)
        if difference is None and then.blocks != now.blocks:
            difference = "its images differ"
        return _outcome(event, difference=difference, normalised=changed)

    async def _tree(self, event: RecordedEvent, saved: SnapshotSaved) -> RedrivenTree | None:
        state = await self._states.read(self._build_id)
        if state.sandbox is None or self._store is None:
            return None
        sandbox = await self._driver.connect(state.sandbox.sandbox_id)
        plan, digest = await differences(sandbox, self._store, saved.key)
        named = {entry.path: "is missing" for entry in plan.missing}
        named |= {entry.path: "has another content" for entry in plan.different}
        named |= {entry.path: "is not in the recorded tree" for entry in plan.extra}
        paths = dict(sorted(named.items()))
        left_out = set[str]()
        for prefix, what in _LEFT_OUT.items():
            inside = [path for path in paths if f"{path}/".startswith(prefix)]
            left_out |= {what} if inside else set()
            for path in inside:
                del paths[path]
        turn = max((_call(one).turn for one in self._events[: event.version] if _is_call(one)), default=0)
        return RedrivenTree(turn, event.version, digest == saved.tree_digest, paths, frozenset(left_out))

    async def _end(self) -> None:
        state = await self._states.read(self._build_id)
        if state.sandbox is not None:
            await self._driver.kill(state.sandbox.sandbox_id)


def _is_call(event: RecordedEvent) -> bool:
    return isinstance(event.data, ToolCallRequested)


def _call(event: RecordedEvent) -> ToolCallRequested:
    if not isinstance(event.data, ToolCallRequested):
        raise TypeError(event.data.type)
    return event.data


def _why_not(recorded: ToolCallCompleted | None, event: RecordedEvent) -> str | None:
    """Return why a recorded call cannot be repeated, for example because it has no recorded result. Returns None when
    it can.
    """
    if recorded is None:
        return "it has no recorded result"
    if recorded.error_kind in _NOT_RUN:
        return f"its recorded result is {recorded.error_kind}"
    return None


def _outcome(
    event: RecordedEvent,
    *,
    difference: str | None = None,
    normalised: frozenset[str] = frozenset(),
    skipped: str | None = None,
) -> RedrivenCall:
    call = _call(event)
    return RedrivenCall(call.turn, event.version, call.call_id, call.tool, difference, normalised, skipped)
