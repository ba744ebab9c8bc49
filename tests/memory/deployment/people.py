"""People and faults of a simulated deployment: who asks for what and when, and when the broker loses its data."""

import asyncio
from collections.abc import Callable

from tests.memory.deployment.deployment import ACCOUNT, SimulatedDeployment

from nightshift.contracts.events.account import AccountToppedUp
from nightshift.contracts.events.requests import (
    BuildCancelRequested,
    BuildMessageSent,
    BuildRequested,
    BuildWakeAsked,
)
from nightshift.contracts.model import PendingKind
from nightshift.simulation import SimulatedProcess

#: When a person cancels a build; most do not.
CANCEL = (None, None, None, "while it waits for money", "while it sleeps", "while it wakes", "at any time")


def build_request(build_id: str) -> BuildRequested:
    """The request for a build whose name the scripted model finds in the brief."""
    return BuildRequested(
        build_id=build_id, project_id="p1", account_id=ACCOUNT, idea_brief=f"An app named <{build_id}>."
    )


async def ask_for_build(deployment: SimulatedDeployment, build_id: str) -> None:
    """Sends the request until the build is accepted, as a producer does whose broker can lose it."""
    await asyncio.sleep(deployment.world.draws.uniform(0, 3))
    while not deployment.recorded(build_id):
        await deployment.request(build_request(build_id), name=f"build/{build_id}", subject=build_id)
        await asyncio.sleep(5)


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
        "at any time": lambda: bool(deployment.recorded(build_id)),
    }
    await asyncio.sleep(world.draws.uniform(0, 40))
    while not conditions[when]() and not deployment.ended(build_id):
        await deployment.beat(0.1)
    while not deployment.ended(build_id):
        request = BuildCancelRequested(build_id=build_id)
        await deployment.request(request, name=f"cancel/{build_id}", subject=build_id)
        await asyncio.sleep(5)


async def top_up(deployment: SimulatedDeployment, number: int) -> None:
    """Adds money for about one call at a drawn time."""
    await asyncio.sleep(deployment.world.draws.uniform(1, 60))
    request = AccountToppedUp(account_id=ACCOUNT, amount_microusd=60_000)
    await deployment.request(request, name=f"top-up/{number}", subject=ACCOUNT)


async def ask_for_wake(deployment: SimulatedDeployment, build_id: str) -> None:
    """Asks for a wake at a drawn time, whether the build sleeps or not."""
    await asyncio.sleep(deployment.world.draws.uniform(1, 60))
    await deployment.request(BuildWakeAsked(build_id=build_id), name=f"wake/{build_id}", subject=build_id)


async def send_message(deployment: SimulatedDeployment, build_id: str) -> None:
    """Tells the agent something at a drawn time, so that its next call costs more."""
    await asyncio.sleep(deployment.world.draws.uniform(1, 60))
    request = BuildMessageSent(build_id=build_id, message="Make it blue. " * 20)
    await deployment.request(request, name=f"message/{build_id}", subject=build_id)


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


async def redeliver(deployment: SimulatedDeployment, *victims: SimulatedProcess) -> None:
    """Publishes some old facts and requests again at a drawn time, and restarts the budget service before that or not.

    A restarted service has forgotten what it has handled.
    """
    world = deployment.world
    await asyncio.sleep(world.draws.uniform(1, world.profile.faults_end_after * 1.5))
    old = [*deployment.history(), *deployment.requests]
    again = world.draws.sample(old, min(len(old), 12))
    if world.draws.random() < 0.7:
        for victim in victims:
            world.kill(victim, "before a redelivery")
    world.note("redelivers " + ", ".join(f"{one.subject} {one.version} {one.data.type}" for one in again))
    await deployment.broker.publish(again)


def _pending(deployment: SimulatedDeployment, kind: PendingKind, build_id: str) -> bool:
    return any(
        item.kind is kind and item.stream_id == f"build-{build_id}"
        for item in deployment.tables.pending.values()
    )
