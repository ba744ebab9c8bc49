"""What outsiders may ask of builds: take one, cancel it, tell its agent something. The log is written first."""

from nightshift.contracts.events.requests import BuildCancelRequested, BuildMessageSent, BuildRequested
from nightshift.eventlog.errors import EventIdReused, NotFound, StreamClosed, VersionConflict
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain.admission import admit, same_request
from nightshift.orchestrator.domain.commands import AcceptBuild, CancelBuild, TellAgent
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL, RunMode
from nightshift.orchestrator.ports import BuildRepository
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler
from nightshift.orchestrator.usecases.runner import Clock


class Builds:
    """The builds of this installation, as a request sees them."""

    def __init__(
        self, repository: BuildRepository, scheduler: BuildScheduler, *, policy: Policy, clock: Clock
    ) -> None:
        self._repository = repository
        self._scheduler = scheduler
        self._policy = policy
        self._clock = clock

    async def accept(self, request: BuildRequested) -> None:
        """Put the build into the log and begin. The same request again changes nothing.

        Raises BadMessage for what cannot be built, EventIdReused for another request under the same id.
        """
        if await self._repository.exists(request.build_id):
            await self._must_be_the_same(request)
        else:
            now = self._clock()
            admit(request, now, self._policy)
            try:
                await self._repository.commit(request.build_id, INITIAL, AcceptBuild(request), now)
            except (EventIdReused, VersionConflict, StreamClosed):
                await self._must_be_the_same(request)  # another replica was first
        await self._scheduler.offer(request.build_id)

    async def cancel(self, event: RecordedEvent, request: BuildCancelRequested) -> None:
        """End the build, wherever it runs. A build that has ended stays as it ended. Raises NotFound."""
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

    async def tell(self, event: RecordedEvent, request: BuildMessageSent) -> None:
        """Note a person's message for the agent's next turn. Raises NotFound, and StreamClosed after the end."""
        if not await self._repository.exists(request.build_id):
            raise NotFound(f"there is no build {request.build_id}")
        await self._repository.commit_at_any_version(
            request.build_id, TellAgent(request.message, cause=event.event_id), self._clock()
        )

    async def _must_be_the_same(self, request: BuildRequested) -> None:
        known = (await self._repository.load(request.build_id)).accepted
        if known is None or not same_request(known, request):
            raise EventIdReused(
                f"build {request.build_id} was asked for before with other content",
                hint="give every build an id of its own",
            )
