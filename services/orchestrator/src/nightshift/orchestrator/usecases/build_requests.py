"""Handles the requests about builds: accept one, cancel it, add a message for its agent."""

from nightshift.contracts.events.requests import BuildCancelRequested, BuildMessageSent, BuildRequested
from nightshift.eventlog.errors import EventIdReused, NotFound, StreamClosed, VersionConflict
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain.admission import admit, same_request
from nightshift.orchestrator.domain.commands import AcceptBuild, CancelBuild, MessageAgent
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL, RunMode
from nightshift.orchestrator.ports import BuildRepository
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler
from nightshift.orchestrator.usecases.runner import Clock


class BuildRequests:
    """Handles the requests about builds. Each request appends to the log first, and only once."""

    def __init__(
        self, repository: BuildRepository, scheduler: BuildScheduler, *, policy: Policy, clock: Clock
    ) -> None:
        self._repository = repository
        self._scheduler = scheduler
        self._policy = policy
        self._clock = clock

    async def accept(self, request: BuildRequested) -> None:
        """Append `build.accepted` and start the build. The same request again changes nothing.

        Raises BadMessage for a request that cannot be built, and EventIdReused when another request had this build id.
        """
        if await self._repository.exists(request.build_id):
            await self._check_same(request)
        else:
            now = self._clock()
            admit(request, now, self._policy)
            try:
                await self._repository.commit(request.build_id, INITIAL, AcceptBuild(request), now)
            except (EventIdReused, VersionConflict, StreamClosed):
                await self._check_same(request)  # another replica accepted it first
        await self._scheduler.start(request.build_id)

    async def cancel(self, event: RecordedEvent, request: BuildCancelRequested) -> None:
        """End the build, whichever replica runs it. Changes nothing after its end. Raises NotFound."""
        command = CancelBuild(request.reason or "cancelled by request", cause=event.event_id)
        await self._scheduler.cancel(request.build_id, command)
        state = await self._repository.load(request.build_id)
        if state.version == 0:
            raise NotFound(f"there is no build {request.build_id}")
        while state.mode is not RunMode.ENDED:
            try:
                state = await self._repository.commit(request.build_id, state, command, self._clock())
            except (VersionConflict, StreamClosed):
                state = await self._repository.catch_up(request.build_id, state)

    async def add_message(self, event: RecordedEvent, request: BuildMessageSent) -> None:
        """Append a person's message, which the agent reads at its next turn.

        Raises NotFound when the build does not exist, and StreamClosed when it has ended.
        """
        if not await self._repository.exists(request.build_id):
            raise NotFound(f"there is no build {request.build_id}")
        await self._repository.commit_at_any_version(
            request.build_id, MessageAgent(request.message, cause=event.event_id), self._clock()
        )

    async def _check_same(self, request: BuildRequested) -> None:
        known = (await self._repository.load(request.build_id)).accepted
        if known is None or not same_request(known, request):
            raise EventIdReused(
                f"build {request.build_id} was asked for before with other content",
                hint="give every build an id of its own",
            )
