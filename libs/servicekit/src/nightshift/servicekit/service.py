"""Runs a service process: logs, signals, health checks, and an orderly start and stop.

When the service stops, it closes everything that its `start` function opened, in reverse order and within a time
limit. Work in flight may finish until `cut_short` is set: shortly before the limit, or at a second signal. The service
also stops when a task from `spawn` ends. Exit codes: 0 after SIGTERM or SIGINT, 1 after a failure, 4 when a setting is
missing or wrong.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from importlib.metadata import version
from typing import Any, Generic, NoReturn, TypeVar

import structlog
import uvloop

from nightshift.eventlog.errors import ConfigurationError, NightshiftError
from nightshift.servicekit import logs, metrics, otlp, tracing
from nightshift.servicekit.health import Health, ReadyCheck
from nightshift.servicekit.settings import ProcessSettings

S = TypeVar("S", bound=ProcessSettings)
T = TypeVar("T")

EXIT_FAILED = 1
EXIT_CONFIGURATION = 4

#: Seconds of the time limit of a stop that remain for what follows the work in flight: last appends, leases, clients.
_CLOSING_S = 4.0

_log = structlog.get_logger(__name__)


class Service(Generic[S]):
    """A running service. The start function of each service receives it and registers its parts here."""

    def __init__(self, name: str, settings: S) -> None:
        self.name = name
        self.settings = settings
        self.stopping = asyncio.Event()
        self.cut_short = asyncio.Event()  # set when work that is still in flight must end now
        self.health = Health(settings.health_host, settings.health_port)
        self._stack = AsyncExitStack()
        self._failure: BaseException | None = None
        self.brokers: list[Any] = []  # FastStream's broker objects, which `application` registers

    async def enter(self, part: AbstractAsyncContextManager[T]) -> T:
        """Enter an async context and return its value.

        When the service stops, it exits all contexts in reverse order.
        """
        return await self._stack.enter_async_context(part)

    def on_stop(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Call `callback` when the service stops. Contexts and callbacks run in reverse order of their registration."""
        self._stack.push_async_callback(callback)

    def ready_when(self, name: str, check: ReadyCheck) -> None:
        """Add a check to /readyz, which answers 200 only while all checks return True."""
        self.health.ready_when(name, check)

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run `work` in a task until the service stops.

        If the task ends earlier, the service stops with exit code 1.
        """
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)

        async def cancel() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(cancel)
        return task

    def fail_when(self, event: asyncio.Event, reason: str) -> None:
        """When the event is set, stop the service with exit code 1 and log the reason."""

        async def watch() -> NoReturn:
            await event.wait()
            raise NightshiftError(reason)

        self.spawn(watch(), name=f"fail when {reason}")

    async def run(self, start: Callable[["Service[S]"], Awaitable[None]]) -> int:
        """Start the service, wait for a signal or a failure, and stop it. Returns the exit code of the process."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            await self.start(start)
            await self.stopping.wait()
        except NightshiftError as error:
            _log.error("service.start_failed", error=str(error), hint=error.hint)
            self._failure = error
        except Exception as error:  # noqa: BLE001 - the boundary of the process
            _log.error("service.start_failed", exc_info=error)
            self._failure = error
        await self.close()
        if isinstance(self._failure, ConfigurationError):
            return EXIT_CONFIGURATION
        return EXIT_FAILED if self._failure is not None else 0

    async def start(self, start: Callable[["Service[S]"], Awaitable[None]]) -> None:
        """Serve the health checks and run the function `start`. Returns early when a stop is requested before it has
        ended.

        Raises the errors of the function.
        """
        metrics.INFO.labels(self.name, version("nightshift-servicekit")).set(1)
        self._export_spans()
        await self.enter(self.health)
        starting = asyncio.ensure_future(start(self))
        stop_requested = asyncio.create_task(self.stopping.wait(), name="stop requested")
        try:
            await asyncio.wait({starting, stop_requested}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
            else:
                starting.result()
                # The objects that exist now live as long as the process. Freezing them spares each garbage collection
                # 70 ms.
                gc.collect()
                gc.freeze()
                self.health.started = True
                _log.info("service.started", service=self.name)
        finally:
            stop_requested.cancel()

    async def close(self) -> None:
        """Stop the service: close everything in reverse order within `stop_timeout_s` seconds.

        Logs errors and never raises.
        """
        self.stopping.set()
        self.health.stopping = True
        limit = self.settings.stop_timeout_s
        cut = asyncio.get_running_loop().call_later(max(limit - _CLOSING_S, limit / 2), self.cut_short.set)
        try:
            async with asyncio.timeout(limit):
                await self._stack.aclose()
        except TimeoutError:
            _log.error("service.stop_timed_out", seconds=limit)
            self._failure = self._failure or TimeoutError("stop")
        except Exception as error:  # noqa: BLE001 - the boundary of the process
            _log.error("service.stop_failed", exc_info=error)
            self._failure = self._failure or error
        finally:
            cut.cancel()
        _log.info("service.stopped", service=self.name, failed=self._failure is not None)

    def _export_spans(self) -> None:
        """Export the trace spans of this process if the OTEL_* variables ask for it. Raises ConfigurationError."""
        exporter = otlp.from_environment(self.name, self.settings.replica_id)
        tracing.install(exporter)
        if exporter is not None:
            self.on_stop(partial(asyncio.to_thread, exporter.close))

    def _signalled(self, number: signal.Signals) -> None:
        if not self.stopping.is_set():
            _log.info("service.stop_requested", service=self.name, signal=number.name)
            self.stopping.set()
        elif not self.cut_short.is_set():
            _log.info("service.stop_cut_short", service=self.name, signal=number.name)
            self.cut_short.set()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or self.stopping.is_set():
            return
        error = task.exception()
        expected = error if isinstance(error, NightshiftError) else None
        _log.error(
            "task.ended" if error is None else "task.failed",
            task=task.get_name(),
            error=str(error) if error else None,
            exc_info=None if expected else error,
        )
        self._failure = error or RuntimeError(f"{task.get_name()} ended")
        self.stopping.set()


def run(name: str, load: Callable[[], S], start: Callable[[Service[S]], Awaitable[None]]) -> NoReturn:
    """Run a service and exit the process with its exit code. Never returns.

    `load` reads the settings, for example `OrchestratorSettings.load`. `start` opens the service's connections and
    consumers.
    """
    try:
        settings = load()
    except ConfigurationError as error:
        logs.configure()
        _log.error("settings.refused", service=name, error=str(error), hint=error.hint)
        sys.exit(EXIT_CONFIGURATION)
    configure_logs(name, settings)

    async def main() -> int:
        return await Service(name, settings).run(start)

    sys.exit(run_loop(main()))


def configure_logs(name: str, settings: ProcessSettings) -> None:
    """Configure the logs of a service: level, format, secrets to mask, and the service and replica names in each
    record.
    """
    logs.configure(
        level=settings.log_level,
        format=settings.log_format,
        secrets=settings.secrets(),
        bound={"service": name, "replica": settings.replica_id},
    )


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a uvloop event loop and return its result.

    uvloop halves the CPU time that a database statement costs this process.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
