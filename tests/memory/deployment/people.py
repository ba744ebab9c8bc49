"""People and faults of a simulated deployment: who asks for what and when, and when the broker loses its data."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta

from tests.memory.deployment.deployment import ACCOUNT, SimulatedDeployment

from nightshift.contracts.events.account import AccountToppedUp
from nightshift.contracts.events.approvals import ApprovalPolicy
from nightshift.contracts.events.build import ModelCallStarted
from nightshift.contracts.events.requests import (
    BuildAnswerGiven,
    BuildCancelRequested,
    BuildMessageSent,
    BuildPauseRequested,
    BuildRequested,
    BuildResumeRequested,
    BuildWakeAsked,
    CustomTool,
    ToolCallApprovalGiven,
    ToolCallResultGiven,
)
from nightshift.contracts.model import Event, PendingKind
from nightshift.eventlog.port import RecordedEvent
from nightshift.simulation import SimulatedProcess

#: When a person cancels a build; most do not.
CANCEL = (None, None, None, "while it waits for money", "while it sleeps", "while it wakes", "at any time")


STOCK_OF = CustomTool(
    name="stock_of",
    description="How many are left.",
    input_schema={"type": "object", "properties": {"sku": {"type": "string"}}},
    timeout_s=15,
    default_output="unknown",
)


async def ask_for_build(deployment: SimulatedDeployment, build_id: str) -> None:
    """Sends the request, some with a deadline, until the build is accepted: the broker can lose it."""
    world = deployment.world
    await asyncio.sleep(world.draws.uniform(0, 3))
    deadline = None
    if world.draws.random() < 0.2:
        deadline = world.now() + timedelta(seconds=world.draws.uniform(15, 60))
    criteria = ("It says hello.", "It is blue.") if world.draws.random() < 0.2 else ()
    request = BuildRequested(
        build_id=build_id,
        project_id="p1",
        account_id=ACCOUNT,
        idea_brief=f"An app named <{build_id}>.",  # the scripted model finds the build by this name
        criteria=criteria,
        deadline=deadline,
        tools=(STOCK_OF,),
        approvals=ApprovalPolicy(ask=("bash(git push *)",), deadline_s=20),
    )
    while not deployment.exists(build_id) and (deadline is None or world.now() < deadline):
        await deployment.request(request, name=f"build/{build_id}", subject=build_id)
        await asyncio.sleep(5)
    deployment.given_up.add(build_id)


async def cancel_build(deployment: SimulatedDeployment, build_id: str) -> None:
    """Draws whether and when a person cancels the build, and sends that until the build has ended."""
    world = deployment.world
    when = world.draws.choice(CANCEL)
    if when is None:
        return
    conditions: dict[str, Callable[[], bool]] = {
        "while it waits for money": lambda: _pending(deployment, PendingKind.BUDGET_REQUEST, build_id),
        "while it sleeps": lambda: _pending(deployment, PendingKind.SLEEPER, build_id),
        "while it wakes": lambda: _pending(deployment, PendingKind.WAKE, build_id),
        "at any time": lambda: deployment.exists(build_id),
    }
    await asyncio.sleep(world.draws.uniform(0, 25))
    while not conditions[when]() and not deployment.ended(build_id):
        await deployment.beat(0.1)
    while not deployment.ended(build_id):
        request = BuildCancelRequested(build_id=build_id)
        await deployment.request(request, name=f"cancel/{build_id}", subject=build_id)
        await asyncio.sleep(5)


async def top_up(deployment: SimulatedDeployment, number: int) -> None:
    """Adds money for about one call at a drawn time."""
    await asyncio.sleep(deployment.world.draws.uniform(1, 40))
    request = AccountToppedUp(account_id=ACCOUNT, amount_microusd=60_000)
    await deployment.request(request, name=f"top-up/{number}", subject=ACCOUNT)


async def ask_for_wake(deployment: SimulatedDeployment, build_id: str) -> None:
    """Asks for a wake at a drawn time, whether the build sleeps or not."""
    await asyncio.sleep(deployment.world.draws.uniform(1, 40))
    await deployment.request(BuildWakeAsked(build_id=build_id), name=f"wake/{build_id}", subject=build_id)


def refuse_the_key(deployment: SimulatedDeployment) -> None:
    """Lets the provider refuse the key for a while in every fourth run, at a time of its own draws."""
    draws = random.Random(deployment.world.seed)
    if deployment.world.seed % 4 == 3:
        deployment.refused_from = draws.uniform(1, 25)
        deployment.refused_until = deployment.refused_from + draws.uniform(5, 40)


async def send_message(deployment: SimulatedDeployment, build_id: str) -> None:
    """Tells the agent something at a drawn time, so that its next call costs more."""
    await asyncio.sleep(deployment.world.draws.uniform(1, 40))
    request = BuildMessageSent(build_id=build_id, message="Make it blue. " * 20)
    await deployment.request(request, name=f"message/{build_id}", subject=build_id)


async def answer_questions(deployment: SimulatedDeployment, build_id: str) -> None:
    """Answers every question of the build after a drawn time, and again until the log has the answer."""
    world = deployment.world
    while not deployment.ended(build_id):
        await deployment.beat()
        if not _pending(deployment, PendingKind.QUESTION, build_id):
            continue
        await asyncio.sleep(world.draws.uniform(0, 4))
        for item in list(deployment.tables.pending.values()):
            if item.kind is PendingKind.QUESTION and item.stream_id == f"build-{build_id}":
                request = BuildAnswerGiven(
                    build_id=build_id, question_id=item.key, option=world.draws.choice(("blue", "green"))
                )
                await deployment.request(
                    request, name=f"answer/{item.key}/{world.draws.getrandbits(32)}", subject=build_id
                )


async def decide_about_calls(deployment: SimulatedDeployment, build_id: str) -> None:
    """Approves or denies the calls that wait for it, some too late, and again until the log has a decision."""

    def decision(call_id: str) -> Event:
        approved = deployment.world.draws.random() < 0.5
        return ToolCallApprovalGiven(build_id=build_id, call_id=call_id, approved=approved, comment="So.")

    await _answer_rows(deployment, build_id, PendingKind.APPROVAL, decision)


async def answer_tool_calls(deployment: SimulatedDeployment, build_id: str) -> None:
    """Answers the calls of the customer's tool, some too late, until the log has a result. The results differ."""

    def result(call_id: str) -> Event:
        left = deployment.world.draws.randrange(3)
        return ToolCallResultGiven(build_id=build_id, call_id=call_id, output=f"{left} are left")

    await _answer_rows(deployment, build_id, PendingKind.CUSTOMER_CALL, result)


async def _answer_rows(
    deployment: SimulatedDeployment, build_id: str, kind: PendingKind, request: Callable[[str], Event]
) -> None:
    world = deployment.world
    while not deployment.ended(build_id):
        await deployment.beat()
        if not _pending(deployment, kind, build_id):
            continue
        await asyncio.sleep(world.draws.choice((1, 2, 3, 25)) * world.draws.random())
        for item in list(deployment.tables.pending.values()):
            if item.kind is kind and item.stream_id == f"build-{build_id}":
                name = f"{kind}/{item.key}/{world.draws.getrandbits(32)}"
                await deployment.request(request(item.key), name=name, subject=build_id)


async def pause_build(deployment: SimulatedDeployment, build_id: str) -> None:
    """Pauses the build at a drawn time, and lets it go on until it has ended."""
    world = deployment.world
    await asyncio.sleep(world.draws.uniform(1, 25))
    request = BuildPauseRequested(build_id=build_id, reason="a look")
    await deployment.request(request, name=f"pause/{build_id}", subject=build_id)
    number = 0
    while not deployment.ended(build_id):
        await asyncio.sleep(world.draws.uniform(1, 8))
        resume = BuildResumeRequested(build_id=build_id)
        await deployment.request(resume, name=f"resume/{build_id}/{number}", subject=build_id)
        number += 1


async def empty_broker(deployment: SimulatedDeployment, *victims: SimulatedProcess) -> None:
    """Kills the broker at a drawn time, so that it comes back empty, and the budget service with it or not."""
    world = deployment.world
    await asyncio.sleep(world.draws.uniform(1, world.profile.faults_end_after))
    if world.draws.random() < 0.7:
        for victim in victims:
            world.kill(victim, "with the broker")
    deployment.broker.empty()
    world.faults += 1
    world.note("the broker comes back empty")


async def stop_replica(deployment: SimulatedDeployment, replica: SimulatedProcess, lease_s: float) -> None:
    """Stops a replica for longer than its leases last, at a drawn time or during the next model call after it."""
    world = deployment.world
    await asyncio.sleep(world.draws.uniform(1, world.profile.faults_end_after))
    if world.draws.random() < 0.5:
        await _until_a_call_is_in_flight(deployment)
    world.stop(replica, world.draws.uniform(0.5, 3) * lease_s)


async def redeliver(deployment: SimulatedDeployment, *victims: SimulatedProcess) -> None:
    """Publishes some old facts and requests again, at a drawn time or during the next model call after it.

    Restarts the budget service before that or not: a restarted service has forgotten what it has handled.
    """
    world = deployment.world
    await asyncio.sleep(world.draws.uniform(1, world.profile.faults_end_after * 1.5))
    if world.draws.random() < 0.7:
        await _until_a_call_is_in_flight(deployment)
    by_type: defaultdict[str, list[RecordedEvent]] = defaultdict(list)
    for event in (*deployment.history(), *deployment.requests):
        by_type[event.data.type].append(event)
    drawn = world.draws.choices(list(by_type.values()), k=12) if by_type else []
    again = sorted(
        map(world.draws.choice, drawn), key=lambda event: event.version
    )  # newer ones would hide older ones
    if world.draws.random() < 0.7:
        for victim in victims:
            world.kill(victim, "before a redelivery")
    world.note("redelivers " + ", ".join(f"{one.subject} {one.version} {one.data.type}" for one in again))
    await deployment.broker.publish(again)


async def _until_a_call_is_in_flight(deployment: SimulatedDeployment) -> None:
    while not deployment.over:
        for build_id in deployment.build_ids:
            stream = deployment.tables.streams.get(f"build-{build_id}")
            if stream is not None and stream.rows[-1].type == ModelCallStarted.type:
                return
        await deployment.beat(0.2)


def _pending(deployment: SimulatedDeployment, kind: PendingKind, build_id: str) -> bool:
    return any(
        item.kind is kind and item.stream_id == f"build-{build_id}"
        for item in deployment.tables.pending.values()
    )
