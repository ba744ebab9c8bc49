"""Handles requests about builds: accept, cancel, pause, resume or rewind a build, send it answers or messages, set
limits.
"""

from datetime import datetime

import structlog

from nightshift.contracts.events.build import Phase
from nightshift.contracts.events.requests import (
    BuildAnswerGiven,
    BuildCancelRequested,
    BuildLimitsSet,
    BuildMessageSent,
    BuildPauseRequested,
    BuildRequested,
    BuildResumeRequested,
    BuildRewindRequested,
    ToolCallApprovalGiven,
    ToolCallResultGiven,
)
from nightshift.eventlog.errors import (
    AlreadyAnswered,
    BadMessage,
    EventIdReused,
    NotFound,
    NotPermitted,
    Refused,
    StreamClosed,
    VersionConflict,
)
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain import customer_tools
from nightshift.orchestrator.domain.admission import admit, same_request
from nightshift.orchestrator.domain.commands import (
    AcceptBuild,
    AnswerQuestion,
    CancelBuild,
    ForkBase,
    GiveApproval,
    GiveResult,
    MessageAgent,
    PauseBuild,
    RequestCommand,
    ResumeBuild,
    RewindBuild,
    SetLimits,
)
from nightshift.orchestrator.domain.forks import builder, check_fork, may_rewind
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import INITIAL, BuildState, RunMode
from nightshift.orchestrator.domain.waiting import open_question
from nightshift.orchestrator.ports import AccountPolicies, BuildRepository, Projects
from nightshift.orchestrator.usecases import attachments
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler
from nightshift.orchestrator.usecases.runner import Clock

_log = structlog.get_logger(__name__)


class BuildRequests:
    """Handles the requests about builds. A request that arrives again appends nothing."""

    def __init__(
        self,
        repository: BuildRepository,
        scheduler: BuildScheduler,
        objects: ObjectStore,
        accounts: AccountPolicies,
        projects: Projects,
        *,
        policy: Policy,
        clock: Clock,
    ) -> None:
        """`objects` is where the attachments of requests are stored."""
        self._repository = repository
        self._accounts = accounts
        self._projects = projects
        self._scheduler = scheduler
        self._objects = objects
        self._policy = policy
        self._clock = clock

    async def accept(self, request: BuildRequested) -> None:
        """Append `build.accepted`. The build then waits in the queue until a replica starts it.

        The same request again changes nothing. Raises BadMessage for a request that cannot be built, NotPermitted for a
        project of another account, and EventIdReused when another request used this build id.
        """
        if await self._repository.exists(request.build_id):
            await self._check_same(request)
        else:
            now, account = self._clock(), await self._accounts.newest(request.account_id)
            admit(request, now, self._policy, account)
            base = await self._fork_base(request, now)
            await attachments.fetch(request.attachments, self._objects)
            await self._check_project(request)
            try:
                await self._repository.commit(
                    request.build_id, INITIAL, AcceptBuild(request, account, base), now
                )
            except (EventIdReused, VersionConflict, StreamClosed):
                await self._check_same(request)  # another replica has accepted it first
        self._scheduler.look()

    async def _check_project(self, request: BuildRequested) -> None:
        """Raise NotPermitted for a build in another account's project, because builds of a project share files and
        digests.

        A fork stays in the project of its base, even when another account pays for it.
        """
        if request.base_build_id is not None:
            return
        owner = await self._projects.claim(request.project_id, request.account_id)
        if owner != request.account_id:
            raise NotPermitted(
                f"the project {request.project_id} belongs to another account than {request.account_id}",
                hint="name a project of this account, or a new one, in `project_id`",
            )

    async def _fork_base(self, request: BuildRequested, now: datetime) -> ForkBase | None:
        """Return the build that a fork continues, or None for a request that is no fork.

        Raises NotFound when that build does not exist, and BadMessage when the request cannot continue it.
        """
        if request.base_build_id is None or request.at is None:
            return None
        base = await self._repository.fork_base(request.base_build_id, request.at.turn)
        check_fork(request, base.accepted)
        model = builder(request, base)  # the model may have retired since the base build began
        admit(request.model_copy(update={"model": model}), now, self._policy)
        return base

    async def cancel(self, event: RecordedEvent, request: BuildCancelRequested) -> None:
        """End the build as cancelled, whichever replica runs it. Changes nothing when the build has ended.

        Raises NotFound when the build does not exist.
        """
        command = CancelBuild(request.reason or "cancelled by request", cause=event.event_id)
        await self._scheduler.cancel(request.build_id, command)
        state = await self._load(request.build_id)
        while state.mode is not RunMode.ENDED:
            try:
                state = await self._repository.commit(request.build_id, state, command, self._clock())
            except (VersionConflict, StreamClosed):
                state = await self._repository.catch_up(request.build_id, state)

    async def add_message(self, event: RecordedEvent, request: BuildMessageSent) -> None:
        """Append a person's message, which the agent reads at its next turn.

        A waiting build may continue because of it. Raises NotFound when the build does not exist, and StreamClosed when
        it has ended.
        """
        command = MessageAgent(request.message, cause=event.event_id)
        state = await self._load(request.build_id)
        if state.mode is RunMode.ENDED:
            # This raises StreamClosed, unless the message was recorded before the end.
            await self._repository.commit_at_any_version(request.build_id, command, self._clock())
        else:
            await self._commit(request.build_id, state, command)

    async def answer(self, event: RecordedEvent, request: BuildAnswerGiven) -> None:
        """Answer a question or an escalation. Changes nothing when the question is not open: the first answer counts.

        Raises NotFound when the build does not exist, and BadMessage for an empty answer or an unknown option.
        """
        if request.option is None and request.text is None:
            raise BadMessage("an answer needs `option` or `text`", field="text")
        state = await self._load(request.build_id)
        question = open_question(state, request.question_id)
        if question is None:
            _log.info("question.not_open", build_id=request.build_id, question_id=request.question_id)
            return
        if request.option is not None and request.option not in question.options:
            options = ", ".join(question.options) or "none"
            raise BadMessage(f"{request.option!r} is not among the options: {options}", field="option")
        command = AnswerQuestion(request.question_id, request.option, request.text, cause=event.event_id)
        await self._commit(request.build_id, state, command)

    async def approve(self, event: RecordedEvent, request: ToolCallApprovalGiven) -> None:
        """Approve or deny a tool call that waits for approval. The same decision again changes nothing.

        Raises NotFound when no call with this id waits, and AlreadyAnswered when the earlier decision was another one.
        """
        command = GiveApproval(
            request.call_id,
            request.approved,
            request.comment,
            cause=event.event_id,
            given_by=event.actor,
        )
        if await self._commit(request.build_id, await self._load(request.build_id), command):
            return
        approval, _ = await self._repository.decision_about(request.build_id, request.call_id)
        if approval is None:
            raise NotFound(f"no call {request.call_id} waits for an approval")
        if approval.approved is not request.approved:
            how = "approved" if approval.approved else "denied"
            raise AlreadyAnswered(f"the call {request.call_id} was {how} before (by {approval.by})")

    async def give_result(self, event: RecordedEvent, request: ToolCallResultGiven) -> None:
        """Give the result of a customer's tool call. The same result again changes nothing.

        Raises NotFound when no customer's tool has this call, and AlreadyAnswered when the call has another result.
        """
        output = customer_tools.output_of(request)
        command = GiveResult(request.call_id, request.is_error, output, cause=event.event_id)
        if await self._commit(request.build_id, await self._load(request.build_id), command):
            return
        _, result = await self._repository.decision_about(request.build_id, request.call_id)
        if result is None:
            raise NotFound(f"no call {request.call_id} waits for a result")
        if result.by != "customer":
            raise AlreadyAnswered(f"the call {request.call_id} is over: it was answered by {result.by}")
        if (result.is_error, result.output) != (request.is_error, output):
            raise AlreadyAnswered(f"the call {request.call_id} has another result, and the first one stands")

    async def pause(self, event: RecordedEvent, request: BuildPauseRequested) -> None:
        """Pause the build, whichever replica runs it. That replica stops the build's model call.

        Raises NotFound when the build does not exist.
        """
        state = await self._load(request.build_id)
        await self._commit(request.build_id, state, PauseBuild(request.reason, cause=event.event_id))

    async def resume(self, event: RecordedEvent, request: BuildResumeRequested) -> None:
        """Resume a paused build. Changes nothing when the build is not paused.

        Raises NotFound when the build does not exist.
        """
        state = await self._load(request.build_id)
        await self._commit(request.build_id, state, ResumeBuild(cause=event.event_id))

    async def rewind(self, event: RecordedEvent, request: BuildRewindRequested) -> None:
        """Set a stopped build back to the end of a turn.

        Raises NotFound when the build does not exist, and Refused while the build is working. Raises BadMessage when
        the turn has not ended or has no snapshot.
        """
        state = await self._load(request.build_id)
        base = await self._repository.fork_base(request.build_id, request.at.turn)
        command = RewindBuild(base, request.message, cause=event.event_id)
        if not may_rewind(state) and not await self._repository.has_recorded(request.build_id, command):
            raise Refused(
                f"build {request.build_id} is not stopped, or a call of it has no result yet",
                hint="pause it with `nightshift pause` first; a build that has ended can be forked",
            )
        await self._commit(request.build_id, state, command)

    async def set_limits(self, event: RecordedEvent, request: BuildLimitsSet) -> None:
        """Set limits of the build. A build that waits at a limit continues when the new limit allows it.

        Raises NotFound when the build does not exist.
        """
        command = SetLimits(
            request.turn_limit,
            request.tool_call_limit,
            cause=event.event_id,
            cost_limit_microusd=request.cost_limit_microusd,
        )
        await self._commit(request.build_id, await self._load(request.build_id), command)

    async def _load(self, build_id: str) -> BuildState:
        state = await self._repository.load(build_id)
        if state.version == 0:
            raise NotFound(f"there is no build {build_id}")
        return state

    async def _commit(self, build_id: str, state: BuildState, command: RequestCommand) -> bool:
        """Append the events that the request leads to, once, and then let the build run.

        Returns False when the request leads to nothing. Raises EventIdReused when another request had the same id.
        """
        while True:
            before = state.version
            try:
                state = await self._repository.commit(build_id, state, command, self._clock())
                appended = state.version > before
                break
            except (VersionConflict, EventIdReused, StreamClosed):
                state = await self._repository.catch_up(build_id, state)
                if state.version > before:
                    continue
                if await self._repository.has_recorded(build_id, command):
                    appended = True
                    break
                raise EventIdReused(
                    f"build {build_id}: the id of this request was used before",
                    hint="give every request an id of its own",
                ) from None
        # A queued build waits for its place in the queue.
        if state.mode is RunMode.RUNNING and state.phase is not Phase.QUEUED:
            await self._scheduler.start(build_id)
        else:
            self._scheduler.notify(build_id, state.version)
        return appended

    async def _check_same(self, request: BuildRequested) -> None:
        known = (await self._repository.load(request.build_id)).accepted
        if known is None or not same_request(known, request):
            raise EventIdReused(
                f"build {request.build_id} was asked for before with other content",
                hint="give every build an id of its own",
            )
