"""One model call of this process: a task that ends in an answer or a typed failure, and the usage stated so far."""

import asyncio
from collections.abc import Iterator
from uuid import UUID

import structlog
from pydantic import ValidationError

from nightshift.contracts.events.build import Usage
from nightshift.eventlog.errors import Unavailable
from nightshift.orchestrator.domain.commands import Answer, CallFailed, Command, StopOnFault
from nightshift.orchestrator.ports import CallError, Model, UsageMeter

_log = structlog.get_logger(__name__)

#: When no event of an answer has come for so many seconds, the build reports that it waits for the provider.
_SILENCE_S = 8.0
#: Seconds that the count of a prompt's tokens may take. The build can do without the count.
_COUNT_S = 10.0
#: The most characters of an error in an event.
_DETAIL = 500


class ModelCall:
    """A call that is in flight. `call_id` is the id of its `model_call.started`. Must be created in a running loop."""

    def __init__(self, call_id: UUID, model: Model, body: bytes, *, build_id: str) -> None:
        self.call_id = call_id
        self.meter = UsageMeter()
        self._started_at = asyncio.get_running_loop().time()
        self._silence_reported = False
        self.task = asyncio.create_task(self._run(model, body, build_id), name=f"model call of {build_id}")

    @property
    def has_begun(self) -> bool:
        """True when the provider has begun to answer."""
        return self.meter.usage is not None

    def silence_left(self) -> float | None:
        """Return the seconds until the provider's silence must be reported, at least 0.

        Returns None when the answer has begun, or when the silence was reported.
        """
        if self.has_begun or self._silence_reported:
            return None
        return max(self._started_at + _SILENCE_S - asyncio.get_running_loop().time(), 0.0)

    def report_silence(self) -> Unavailable:
        """Return the error that says that the provider sends nothing. The caller reports it once for each call."""
        self._silence_reported = True
        return Unavailable(f"the model provider has not begun to answer within {_SILENCE_S:.0f} s")

    async def stop(self) -> Usage | None:
        """Stop the call. Returns the usage that the provider has stated, or None when it has stated none.

        Returns an empty usage when the request has not left the process.
        """
        self.task.cancel()
        await asyncio.wait({self.task})
        return self.meter.usage if self.meter.under_way else Usage()

    async def _run(self, model: Model, body: bytes, build_id: str) -> Answer | CallFailed:
        try:
            return await model.answer(body, self.meter)
        except CallError as error:
            failure = error.failure
            _log.warning("model.call_failed", build_id=build_id, kind=failure.kind, status=failure.status)
            return failure
        except Exception as error:  # noqa: BLE001 - an error of the adapter must not end the run: the call may be billed
            _log.exception("model.adapter_failed", build_id=build_id)
            detail = f"the answer cannot be read: {one_line(error)}"
            return CallFailed("malformed", detail, usage=self.meter.usage, maybe_billed=self.meter.under_way)


async def count_tokens(model: Model, body: bytes, *, build_id: str) -> int | None:
    """Return the provider's count of a prompt's tokens, or None when there is no count within `_COUNT_S` seconds."""
    try:
        async with asyncio.timeout(_COUNT_S):
            return await model.count(body)
    except (CallError, TimeoutError) as error:
        _log.warning("model.tokens_not_counted", build_id=build_id, error=one_line(error))
        return None


def replacements(outcome: Answer | CallFailed, error: Exception) -> Iterator[Command]:
    """Yield the commands to append in place of `outcome`, whose append raised `error`.

    Append the second command only when the append of the first fails, and so on. An answer that fits into no event
    becomes a failed attempt, which is made again. After any other error the build stops.
    """
    detail = f"an answer that cannot be taken in: {one_line(error)}"
    if isinstance(outcome, Answer) and isinstance(error, ValidationError):
        yield CallFailed("malformed", detail, usage=outcome.usage, maybe_billed=True)
        yield CallFailed("malformed", detail, maybe_billed=True)
    billed = isinstance(outcome, Answer) or outcome.maybe_billed
    yield StopOnFault(detail, outcome.usage or (None if billed else Usage()))
    yield StopOnFault(detail, None if billed else Usage())


def one_line(error: Exception) -> str:
    """Return the error's class and message on one line of at most 500 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_DETAIL]
