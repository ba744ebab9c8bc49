"""Appends why a build waits for its sandbox, once for each reason. Counts the failures in a row of each build."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from nightshift.contracts.events.sandbox import SandboxStalled
from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import NightshiftError
from nightshift.eventlog.fold_cache import FoldCache
from nightshift.eventlog.port import EventLog, NewEvent, build_stream
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState
from nightshift.sandbox_gateway.domain.stall import stalled_by, stalled_slowly

_log = structlog.get_logger(__name__)
_RETRY = Backoff(first_s=1.0, cap_s=30.0)


@dataclass(slots=True)
class _Failures:
    delay: RetryDelay
    count: int = 0
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(slots=True)
class StallReporter:
    """Appends `sandbox.stalled` for builds whose sandbox failed, or neither answered nor failed for `slow_s`
    seconds.
    """

    log: EventLog
    states: FoldCache[SandboxState]
    retry: Backoff = _RETRY
    slow_s: float = 8.0
    _failures: dict[str, _Failures] = field(default_factory=dict)

    async def failed(self, build_id: str, error: Exception) -> float:
        """Count a failure of this build and report it. Returns the seconds until the next attempt."""
        failures = self._failures.get(build_id)
        if failures is None:
            failures = self._failures[build_id] = _Failures(RetryDelay(self.retry, random.random))
        failures.count += 1
        delay = failures.delay.after_failure()
        fault = None if isinstance(error, NightshiftError) else error
        _log.warning(
            "build.retried",
            build_id=build_id,
            error=f"{type(error).__name__}: {error}",
            attempt=failures.count,
            retry_s=delay,
            exc_info=fault,
        )
        stalled = stalled_by(error, attempt=failures.count, since=failures.since)
        if stalled is not None:
            await self._report(build_id, stalled)
        return delay

    def succeeded(self, build_id: str) -> None:
        """Forget the failures of this build, because it has made progress."""
        self._failures.pop(build_id, None)

    @asynccontextmanager
    async def watch(self, state: SandboxState) -> AsyncIterator[None]:
        """Run the block. Appends `sandbox.stalled` when it takes longer than `slow_s` seconds and the log has no reason
        yet.
        """
        since, reports = datetime.now(UTC), []

        def notice() -> None:
            failures = self._failures.get(state.build_id)
            attempt = failures.count if failures else 0
            stalled = stalled_slowly(seconds=self.slow_s, attempt=attempt, since=since)
            reports.append(asyncio.create_task(self._report(state.build_id, stalled)))

        timer = asyncio.get_running_loop().call_later(self.slow_s, notice)
        try:
            yield
        finally:
            timer.cancel()
            for report in reports:
                report.cancel()
            await asyncio.gather(*reports, return_exceptions=True)

    async def _report(self, build_id: str, stalled: SandboxStalled) -> None:
        """Append the event if the build has pending work and the log does not have this reason yet. Errors are only
        logged.
        """
        try:
            state = await self.states.read(build_id)
            recorded = None if state.stalled is None else state.stalled.reason
            if state.waits is None or recorded == stalled.reason or (recorded and stalled.reason == "slow"):
                return
            fact = NewEvent(stalled, state.waits, index=state.stalls)
            await self.log.append(build_stream(build_id), [fact])
        except NightshiftError as error:  # the log does not answer, or another gateway reported it first
            _log.warning("sandbox.stall_not_recorded", build_id=build_id, error=str(error))
