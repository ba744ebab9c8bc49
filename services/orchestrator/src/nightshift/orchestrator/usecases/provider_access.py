"""Decides whether and when the builds of one replica may call the model provider with its key.

When the provider refuses the key, every build waits. When it refuses the key for one model, the builds that call this
model wait. Of all replicas, one build at a time then tries again. As soon as the provider begins to answer a call, the
other builds continue.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from prometheus_client import Gauge

from nightshift.eventlog.errors import NightshiftError
from nightshift.orchestrator.domain.commands import Answer, CallFailed
from nightshift.orchestrator.domain.provider_waits import REFUSED_KEY, SLOW_DOWN, is_for_one_model
from nightshift.orchestrator.ports import ProviderKey, RefusedKey, SharedPace, UsageMeter
from nightshift.orchestrator.usecases.call_pace import CallPace

_utc_now = partial(datetime.now, UTC)
_log = structlog.get_logger(__name__)

_REFUSED = Gauge(
    "nightshift_provider_key_refused", "1 while the provider refuses the key; its builds wait.", ["key"]
)
#: The most characters of the provider's reason that are kept.
_DETAIL = 500


class ProviderAccess:
    """The access of one replica to the provider.

    `refusals` contains the refusals of the key that this replica has last read. It is empty while the provider accepts
    the key.
    """

    def __init__(
        self, key: ProviderKey, pace: CallPace | None = None, *, clock: Callable[[], datetime] = _utc_now
    ) -> None:
        self._key = key
        self._now = clock
        self._pace = pace or CallPace()
        self._probes: dict[str | None, str] = {}  # the builds that try again, by the refused model
        self._models: dict[str, str] = {}  # which model a waiting build calls next, as far as known
        self._unwritten = False  # the shared pace lacks a change of this replica, so the own pace counts
        self.refusals: Sequence[RefusedKey] = ()

    @property
    def key_id(self) -> str:
        """The hash that identifies the key."""
        return self._key.key_id

    async def refresh(self) -> None:
        """Read whether the key is refused and the pace of its calls, because another replica may know more."""
        self._read(await self._key.refused())
        if not self._unwritten:
            self._adopt(await self._key.pace(), self._now())

    def refused_for(self, model: str) -> RefusedKey | None:
        """Return the refusal of the key that applies to calls of this model, or None while such calls are accepted."""
        return next((one for one in self.refusals if one.model in (None, model)), None)

    async def take_probe(self, refused: RefusedKey) -> bool:
        """Return whether this replica may now let one build try the refused key again.

        After True, the caller must call `probe`. After False, another build tries, or the time has not come.
        """
        return refused.model not in self._probes and await self._key.take_probe(refused.model)

    def probe(self, refused: RefusedKey, build_id: str) -> None:
        """Let this build call the provider although the key is refused."""
        self._probes[refused.model] = build_id

    async def run_ended(self, build_id: str) -> None:
        """Note that the build no longer runs here.

        When the build was chosen to try the refused key and has not done so, another build may try at once.
        """
        for model in [model for model, probe in self._probes.items() if probe == build_id]:
            del self._probes[model]
            if any(one.model == model for one in self.refusals):
                await self._key.return_probe(model)

    def may_call(self, build_id: str, model: str) -> bool:
        """Return whether the build may call the model.

        It may when the provider accepts the key, or when this build was chosen to try the refused key.
        """
        refused = self.refused_for(model)
        if refused is None or self._probes.get(refused.model) == build_id:
            self._models.pop(build_id, None)
            return True
        self._models[build_id] = model
        return False

    def is_probe(self, build_id: str) -> bool:
        """Return whether this build was chosen to try the refused key while the other builds wait."""
        return bool(self.refusals) and build_id in self._probes.values()

    def startable(self, waiting: Iterable[str]) -> Sequence[str]:
        """Return those of the builds `waiting` that may run, because the provider accepts the key for their next model.

        Builds whose next model this replica does not know may run, too. Returns none while the key is refused for all
        models.
        """
        if any(one.model is None for one in self.refusals):
            return ()
        refused = {one.model for one in self.refusals}
        return [build_id for build_id in waiting if self._models.get(build_id) not in refused]

    def probes_of(self, refused: RefusedKey, waiting: Iterable[str]) -> str | None:
        """Return the first of the builds `waiting` that can try the key, because its next call needs a model that
        `refused` names.

        A refusal for all models fits every build. Returns None when no build fits.
        """
        fitting = (one for one in waiting if refused.model in (None, self._models.get(one)))
        return next(fitting, None)

    def forget_all_but(self, waiting: Collection[str]) -> None:
        """Forget the next models of all builds except the builds in `waiting`."""
        self._models = {build_id: model for build_id, model in self._models.items() if build_id in waiting}

    @property
    def blocked(self) -> int:
        """The number of builds that wait because the provider refuses their next model, as far as is known here."""
        return len(self._models)

    async def turn(self, now: datetime) -> datetime:
        """Return `now` if a call may start now, and the caller must start it. Else return the time to ask again.

        While calls are spaced, only one replica at a time may start a call. When the shared pace cannot be read, only
        the pace of this replica counts.
        """
        at = self._pace.turn(now)
        if at > now or not self._pace.interval_s:
            return at
        try:
            wait_s = await self._key.take_turn()
        except NightshiftError as error:
            _log.warning("provider.pace_not_read", key=self._key.key_id, error=str(error))
            return now
        if not wait_s:
            return now
        at = now + timedelta(seconds=wait_s)
        self._pace.wait_until(at)
        return at

    def ended_by(self, build_id: str, model: str, started_at: datetime) -> Sequence[RefusedKey]:
        """Return the refusals of the key that end because the provider begins to answer this build's call of `model`.

        These are the refusals for this model and for all models. A call that started before a refusal does not end it,
        unless the build was chosen to try the key again.
        """
        return [
            one
            for one in self.refusals
            if one.model in (None, model)
            and (self._probes.get(one.model) == build_id or started_at >= one.since)
        ]

    async def note_over(self, over: Sequence[RefusedKey]) -> None:
        """Record that the refusals `over` have ended, so that the builds that waited for the provider continue.

        When the end of a refusal cannot be recorded, the refusal stays.
        """
        for one in over:
            self._probes.pop(one.model, None)
            try:
                if await self._key.accepted(one.model):
                    since = one.since.isoformat()
                    _log.info(
                        "provider.recovered", key=self._key.key_id, model=one.model, refused_since=since
                    )
            except NightshiftError as error:
                _log.warning("provider.state_not_written", key=self._key.key_id, error=str(error))
                continue
            self._read([other for other in self.refusals if other.model != one.model])

    async def note(
        self,
        outcome: Answer | CallFailed,
        meter: UsageMeter,
        *,
        model: str,
        started_at: datetime,
        now: datetime,
    ) -> Answer | CallFailed:
        """Adapt the pace of calls and the refusals of the key to the outcome of a model call.

        Returns `outcome`. When the provider refused the key, the outcome's `detail` also names the key.
        """
        if meter.exhausted_until is not None:
            self._pace.pause_until(meter.exhausted_until, now)
        spaced = isinstance(outcome, CallFailed) and outcome.kind in SLOW_DOWN
        if isinstance(outcome, CallFailed) and spaced:
            self._pace.refused(started_at, now, retry_after_s=outcome.retry_after_s)
        if spaced or meter.exhausted_until is not None:
            await self._slow_down(started_at, now, spaced=spaced)
        if isinstance(outcome, Answer):
            await self._quicken(now)
            return outcome
        if outcome.kind not in REFUSED_KEY:
            return outcome
        refused_model = model if is_for_one_model(outcome) else None
        which = f"key {self._key.key_id}" + ("" if refused_model is None else f", model {refused_model}")
        outcome = replace(outcome, detail=f"{which}: {outcome.detail}")
        await self._note_refused(outcome, refused_model, now)
        return outcome

    async def _slow_down(self, started_at: datetime, now: datetime, *, spaced: bool) -> None:
        pause_s = max(((self._pace.paused_until or now) - now).total_seconds(), 0.0)
        try:
            self._adopt(await self._key.slow_down(started_at, pause_s, spaced=spaced), now)
        except NightshiftError as error:
            self._unwritten = True
            _log.warning("provider.pace_not_written", key=self._key.key_id, error=str(error))

    async def _quicken(self, now: datetime) -> None:
        if not self._pace.interval_s:
            return
        self._pace.answered()
        try:
            self._adopt(await self._key.quicken(), now)
        except NightshiftError as error:
            _log.warning("provider.pace_not_written", key=self._key.key_id, error=str(error))

    def _adopt(self, shared: SharedPace, now: datetime) -> None:
        self._unwritten = False
        self._pace.adopt(shared.interval_s, shared.pause_s, now)

    async def _note_refused(self, failure: CallFailed, model: str | None, now: datetime) -> None:
        self._probes.pop(model, None)
        detail = failure.detail[:_DETAIL]
        refused = RefusedKey(failure.kind, failure.status, detail, now, model)
        known: Sequence[RefusedKey] = [
            refused,
            *(one for one in self.refusals if one.model != refused.model),
        ]
        try:
            if await self._key.refuse(refused):
                _log.error(
                    "provider.blocked",
                    key=self._key.key_id,
                    model=model,
                    kind=failure.kind,
                    status=failure.status,
                    detail=detail,
                )
            known = await self._key.refused() or known
        except NightshiftError as error:  # the next build whose call is refused will write it
            _log.warning("provider.state_not_written", key=self._key.key_id, error=str(error))
        self._read(known)

    def _read(self, refusals: Sequence[RefusedKey]) -> None:
        # A refusal for all models comes first.
        self.refusals = sorted(refusals, key=lambda one: one.model is not None)
        _REFUSED.labels(self._key.key_id).set(bool(refusals))
