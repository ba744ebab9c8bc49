"""Starts the servers and services of a plan, restarts those that exit, and stops all in order."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from nightshift.devstack.errors import PartFailed
from nightshift.devstack.fork_server import ForkServer
from nightshift.devstack.orphans import adopt_orphans, end_orphans, end_sandboxes
from nightshift.devstack.parts import EmbeddedKafka, EmbeddedPostgres, EmbeddedS3, KafkaAddress, ScriptedModel
from nightshift.devstack.ports import is_free
from nightshift.devstack.stack import home, steps
from nightshift.devstack.stack.addresses import given_addresses, needs_snapshot_key, service_environment
from nightshift.devstack.stack.broker_renewal import read_unreplaceable, resident_mb, write_again
from nightshift.devstack.stack.plan import PARTS, Plan, service_name
from nightshift.devstack.stack.restarts import Exit, RestartRecord, last_words
from nightshift.devstack.stack.units import Part, ServiceReplica
from nightshift.eventlog.backoff import Backoff, RetryDelay

_RESTARTS = Backoff(first_s=0.1, cap_s=10.0)
_MEMORY_LOOK_SECONDS, _REFILL_SECONDS = 2.0, 8.0
_STEADY_SECONDS = 30.0  # after a process ran this long, its next restart has the shortest delay


class Stack:
    """One running stack. Call `start` first, and always call `stop` at the end, also after an error."""

    def __init__(
        self,
        plan: Plan,
        *,
        say: Callable[[str], None],
        load_clients: Callable[[], None],
        apply_topics: Callable[[KafkaAddress], Awaitable[None]],
    ) -> None:
        """Prepare a stack.

        - `say`: shows a line to the user.
        - `load_clients`: imports the modules that `apply_topics` and the migration need. It runs in a thread while the
          servers start.
        - `apply_topics`: creates the topics. It is called again when the broker has restarted empty.
        """
        self._plan = plan
        self._load_clients = load_clients
        self._loaded: asyncio.Future[None] | None = None
        self._topics = apply_topics
        self._say = say
        self._log_dir = plan.home / "logs"
        self._found = given_addresses(plan)
        self._parts: dict[str, Part] = {}
        self._services: dict[str, list[ServiceReplica]] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._ready = False
        self._restarts = RestartRecord(plan.home)
        self._renewed: set[int] = set()  # process ids of brokers that we killed because of their memory
        self._kept: list[Any] = []  # records of the killed broker, to write to the next one
        modules = [f"nightshift.{name}.app" for name in plan.services]
        self._fork_server = ForkServer(modules, self._log_dir / "fork-server.log")

    async def start(self) -> None:
        """Start the servers, migrate the database, create the topics, and start the services. Raises DevstackError."""
        adopt_orphans()
        if self._plan.services:
            self._fork_server.begin()
        if needs_snapshot_key(self._plan):
            self._found.snapshot_key = home.snapshot_key(self._plan.home)
        self._parts = self._make_parts()
        chains = {"postgres": self._start_postgres, "kafka": self._start_kafka, "s3": self._start_s3}
        await _all(
            *(chains[name]() for name in chains if name in self._parts or self._is_given(name)),
            *([self._start_model()] if "model" in self._parts else []),
            self._clients(),
        )
        home.remember_ports(
            self._plan.home,
            home.remembered_ports(self._plan.home) | {name: part.port for name, part in self._parts.items()},
        )
        self._services = {
            name: [
                ServiceReplica(
                    name,
                    replica,
                    env=service_environment(self._plan, self._found, name),
                    log_dir=self._log_dir,
                    launch=self._fork_server.start,
                )
                for replica in range(count)
            ]
            for name, count in self._plan.services.items()
        }
        await _all(*(self._launch(one.name, one) for replicas in self._services.values() for one in replicas))
        self._ready = True
        self._write_state()

    def describe(self) -> dict[str, Any]:
        """Return the addresses and process ids of all servers and services.

        The process id of a server that the user gave is None.
        """
        found, state = self._found, {"home": str(self._plan.home)}  # type: tuple[Any, dict[str, Any]]
        if found.postgres is not None:
            state["postgres"] = {"dsn": found.dsn(), "pid": self._pid("postgres")}
        if found.kafka is not None:
            state["kafka"] = {"bootstrap": found.kafka.bootstrap, "pid": self._pid("kafka")}
        if found.s3 is not None:
            state["s3"] = {
                "endpoint": found.s3.endpoint,
                "bucket": found.s3.bucket,
                "access_key": found.s3.access_key,
                "secret_key": found.s3.secret_key,
                "region": found.s3.region,
                "pid": self._pid("s3"),
            }
        if found.model is not None:
            state["model"] = {"base_url": found.model, "pid": self._pid("model")}
        state["services"] = {
            service_name(name): [{"pid": one.pid} for one in replicas]
            for name, replicas in self._services.items()
        }
        return state

    async def stop(self) -> None:
        """Stop the services first, so that they can finish their work, and then the servers."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(one.stop() for replicas in self._services.values() for one in replicas))
        self._fork_server.end()
        await asyncio.to_thread(end_orphans)
        await asyncio.to_thread(end_sandboxes, self._plan.home / "sandboxes")
        await asyncio.gather(*(part.stop() for part in self._parts.values()))

    def kill(self) -> None:
        """Send SIGKILL to every process. Used when the user interrupts a second time."""
        for unit in [*self._parts.values(), *(one for all_ in self._services.values() for one in all_)]:
            with contextlib.suppress(RuntimeError):  # not started yet
                unit.child.signal(signal.SIGKILL)

    def _make_parts(self) -> dict[str, Part]:
        plan, log = self._plan, self._log_dir
        remembered = home.remembered_ports(plan.home)

        def port(part: str) -> int:
            known = remembered.get(part, 0)
            return plan.ports.get(part) or (known if known and is_free(known) else 0)

        makers: dict[str, Callable[[], Part]] = {
            "postgres": lambda: EmbeddedPostgres(plan.home / "postgres", log, port=port("postgres")),
            "kafka": lambda: EmbeddedKafka(log, port=port("kafka")),
            "s3": lambda: EmbeddedS3(plan.home / "s3", log, port=port("s3")),
            "model": lambda: ScriptedModel(log, scenario=plan.scenario, port=port("model")),
        }
        return {name: makers[name]() for name in PARTS if plan.starts(name)}

    async def _clients(self) -> None:
        """Wait until the slow modules of the database and Kafka clients are imported. The first call starts the
        import.
        """
        if self._loaded is None:
            self._loaded = asyncio.ensure_future(asyncio.to_thread(self._load_clients))
        await asyncio.shield(self._loaded)

    def _is_given(self, part: str) -> bool:
        return getattr(self._plan.given, part) is not None

    async def _start_postgres(self) -> None:
        if "postgres" in self._parts:
            server = await self._launch("postgres", self._parts["postgres"])
            await self._clients()
            await steps.create_database(server)
            self._found.postgres = server
        dsn = self._found.dsn()
        if dsn is not None:
            await self._clients()
            await steps.migrate_log(dsn)

    async def _start_kafka(self) -> None:
        if "kafka" in self._parts:
            self._found.kafka = await self._launch(
                "kafka", self._parts["kafka"], restarted=self._refill_broker
            )
            self._keepers.append(asyncio.create_task(self._bound_broker(self._parts["kafka"])))
        await self._apply_topics()

    async def _apply_topics(self) -> None:
        if self._found.kafka is not None:
            await self._clients()
            await self._topics(self._found.kafka)

    async def _bound_broker(self, broker: Part) -> None:
        """Restart the embedded broker whenever its memory exceeds the limit (see `broker_renewal`).

        Unfinished builds alone may need more than the limit. So the limit becomes at least twice the broker's size
        after the restart.
        """
        limit = self._plan.broker_memory_mb
        while True:
            await asyncio.sleep(_MEMORY_LOOK_SECONDS)
            child = broker.child
            size = resident_mb(child.pid)
            if self._found.kafka is None or size <= limit:
                continue
            try:
                self._kept = await read_unreplaceable(self._found.kafka.bootstrap, self._plan.topics)
            except Exception as error:  # noqa: BLE001 - whatever it was, the next look tries again
                self._say(f"{child.spec.name} holds {size:.0f} MiB and cannot be restarted: {error!r}")
                continue
            self._renewed.add(child.pid)
            child.signal(signal.SIGKILL)
            await asyncio.sleep(_REFILL_SECONDS)
            limit = max(self._plan.broker_memory_mb, 2 * resident_mb(broker.child.pid))

    async def _refill_broker(self) -> None:
        """Create the topics on a broker that restarted empty, and write the records that only the old broker had."""
        await self._apply_topics()
        if self._found.kafka is not None:
            await write_again(self._found.kafka.bootstrap, self._kept)
            self._kept = []

    async def _start_s3(self) -> None:
        if "s3" in self._parts:
            self._found.s3 = await self._launch("s3", self._parts["s3"])

    async def _start_model(self) -> None:
        self._found.model = (await self._launch("model", self._parts["model"])).base_url

    async def _launch(
        self,
        name: str,
        unit: Part | ServiceReplica,
        *,
        restarted: Callable[[], Awaitable[None]] | None = None,
    ) -> Any:
        """Start a server or service, and restart it from then on whenever it exits. Returns what its `start` returned.

        `restarted` is called after each restart.
        """
        address = await unit.start()
        self._keepers.append(asyncio.create_task(self._keep(name, unit, restarted)))
        return address

    async def _keep(
        self, name: str, unit: Part | ServiceReplica, restarted: Callable[[], Awaitable[None]] | None
    ) -> None:
        """Restart a server or service whenever it exits, with growing delays, and record each exit."""
        delay = RetryDelay(_RESTARTS, lambda: 1.0)
        while True:
            child, since = unit.child, time.monotonic()
            code = await child.wait()
            if time.monotonic() - since > _STEADY_SECONDS:
                delay.reset()
            if child.pid in self._renewed:
                limit = self._plan.broker_memory_mb
                self._say(
                    f"{child.spec.name} (process {child.pid}) held more than {limit:g} MiB; starting it again"
                )
            else:
                self._restarts.note(name, Exit(datetime.now(UTC), code, last_words(child.log_tail(1))))
                self._say(f"{child.spec.name} (process {child.pid}) {_how_it_ended(code)}; starting it again")
            wait_s = delay.after_failure()
            while True:
                await asyncio.sleep(wait_s)
                try:
                    if unit.child.poll() is not None:
                        await unit.start()
                    if restarted is not None:
                        await restarted()
                    self._write_state()
                except Exception as error:  # noqa: BLE001 - whatever it was, it is reported and tried again
                    self._restarts.note(name, _failed_start(error))
                    wait_s = delay.after_failure()
                    self._say(f"{child.spec.name} cannot be started: {error}; trying again in {wait_s:g} s")
                else:
                    break
            self._say(f"{child.spec.name} runs again (process {unit.pid})")

    def _write_state(self) -> None:
        if self._ready:
            home.write_stack(self._plan.home, self.describe())

    def _pid(self, part: str) -> int | None:
        return self._parts[part].pid if part in self._parts else None


def _failed_start(error: Exception) -> Exit:
    if isinstance(error, PartFailed):
        return Exit(datetime.now(UTC), error.exit_code, last_words(error.tail))
    return Exit(datetime.now(UTC), None, last_words(str(error)))


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


async def _all(*work: Coroutine[Any, Any, Any]) -> None:
    """Run the coroutines at the same time.

    When one fails, cancel the others and raise its error, not an ExceptionGroup.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    # No `except*`: before Python 3.11.4 it wraps a raised error in a group again.
    except ExceptionGroup as failed:
        first: Exception = failed
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from None
