"""Decides for the builds of one replica whether and when they may call the model provider with its key.

When the provider refuses the key, every build waits. One build over all replicas then tries again at a time; the first
call that the provider begins to answer lets all builds go on.
"""

from dataclasses import replace
from datetime import datetime

import structlog
from prometheus_client import Gauge

from nightshift.eventlog.errors import NightshiftError
from nightshift.orchestrator.domain.commands import Answer, CallFailed
from nightshift.orchestrator.domain.provider_waits import REFUSED_KEY, SLOW_DOWN
from nightshift.orchestrator.ports import ProviderKey, RefusedKey, UsageMeter
from nightshift.orchestrator.usecases.call_pace import CallPace

_log = structlog.get_logger(__name__)

_REFUSED = Gauge(
    "nightshift_provider_key_refused", "1 while the provider refuses the key; its builds wait.", ["key"]
)
#: The most characters of the provider's reason that are kept.
_DETAIL = 500


class ProviderAccess:
    """The access of one replica. `refused` is what it last read about its key, None while the key is good."""

    def __init__(self, key: ProviderKey, pace: CallPace | None = None) -> None:
        self._key = key
        self._pace = pace or CallPace()
        self._probe: str | None = None  # the build that tries again
        self.refused: RefusedKey | None = None

    async def refresh(self) -> None:
        """Read whether the key is refused: another replica may know more."""
        self._read(await self._key.refused())

    async def take_probe(self) -> bool:
        """Return whether this replica may let one build try again now. It must then call `probe`."""
        return self._probe is None and await self._key.take_probe()

    def probe(self, build_id: str) -> None:
        """Let this build call the provider although the key is refused."""
        self._probe = build_id

    async def run_ended(self, build_id: str) -> None:
        """Note that the build runs here no more. When it was to try again and did not, another one may at once."""
        if self._probe != build_id:
            return
        self._probe = None
        if self.refused is not None:
            await self._key.return_probe()

    def may_call(self, build_id: str) -> bool:
        """Return whether the build may call the provider: the key is good, or this is the build that tries again."""
        return self.refused is None or build_id == self._probe

    def is_probe(self, build_id: str) -> bool:
        """Return whether this is the build that tries again while the others wait."""
        return self.refused is not None and build_id == self._probe

    def turn(self, now: datetime) -> datetime:
        """Return `now` when a call may start; the caller must then start it. Else return when to ask again."""
        return self._pace.turn(now)

    async def note_begun(self, build_id: str, started_at: datetime) -> None:
        """Let all builds of the key go on, because the provider begins to answer a call of this build.

        A call that started before the key was refused shows nothing.
        """
        if self.refused is None or (build_id != self._probe and started_at < self.refused.since):
            return
        self._probe = None
        try:
            if await self._key.accepted():
                _log.info(
                    "provider.recovered", key=self._key.key_id, refused_since=self.refused.since.isoformat()
                )
            self._read(None)
        except NightshiftError as error:
            _log.warning("provider.state_not_written", key=self._key.key_id, error=str(error))

    async def note(
        self,
        build_id: str,
        outcome: Answer | CallFailed,
        meter: UsageMeter,
        *,
        started_at: datetime,
        now: datetime,
    ) -> Answer | CallFailed:
        """Learn from the end of a call. Returns the outcome, with the key's id in the reason of a refused key."""
        if meter.exhausted_until is not None:
            self._pace.pause_until(meter.exhausted_until, now)
        if isinstance(outcome, Answer):
            self._pace.answered()
            await self.note_begun(build_id, started_at)
            return outcome
        if outcome.kind in SLOW_DOWN:
            self._pace.refused(started_at, now, retry_after_s=outcome.retry_after_s)
        if outcome.kind not in REFUSED_KEY:
            return outcome
        outcome = replace(outcome, detail=f"key {self._key.key_id}: {outcome.detail}")
        await self._note_refused(outcome, now)
        return outcome

    async def _note_refused(self, failure: CallFailed, now: datetime) -> None:
        self._probe = None
        refused = RefusedKey(failure.kind, failure.status, failure.detail[:_DETAIL], now)
        try:
            if await self._key.refuse(refused):
                _log.error(
                    "provider.blocked",
                    key=self._key.key_id,
                    kind=failure.kind,
                    status=failure.status,
                    detail=failure.detail[:_DETAIL],
                )
            refused = await self._key.refused() or refused
        except NightshiftError as error:  # the next build that is refused writes it
            _log.warning("provider.state_not_written", key=self._key.key_id, error=str(error))
        self._read(refused)

    def _read(self, refused: RefusedKey | None) -> None:
        self.refused = refused
        _REFUSED.labels(self._key.key_id).set(refused is not None)
