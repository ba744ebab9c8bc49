"""The scenario of the whole deployment: what runs, for how long, and the verdict at the end."""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial

from tests.memory.deployment import money, people, replays, services
from tests.memory.deployment.broker import relay
from tests.memory.deployment.deployment import SimulatedDeployment
from tests.support import build_invariants

from nightshift.contracts.events.build import BuildCancelled, BuildFailed, BuildReady
from nightshift.contracts.model import Event, Owner
from nightshift.simulation import SimulatedProcess, Violation, World

#: Seconds after the last end and the last fault in which every pending row must be closed.
SETTLING_S = 60.0
#: Seconds in which restarted services handle everything again.
REDELIVERY_S = 12.0
#: Seconds in which every build must end.
LONGEST_S = 3600.0


async def scenario(world: World, **changes: object) -> SimulatedDeployment:
    """Runs two builds to their end under the faults of the seed. Raises Violation for a broken promise."""
    return await _run(world, SimulatedDeployment(world, ("b1", "b2"), **changes))


async def short_scenario(world: World, **changes: object) -> SimulatedDeployment:
    """Runs one build of two turns in the same way, for a third of the time."""
    return await _run(world, SimulatedDeployment(world, ("b1",), turns=2, **changes))


async def _run(world: World, deployment: SimulatedDeployment) -> SimulatedDeployment:
    start = partial(_start, world, deployment)
    budgets = [start("budget-1", services.budget, "budget-1")]
    if world.draws.random() < 0.3:
        budgets.append(start("budget-2", services.budget, "budget-2"))
    orchestrators = [start(name, services.orchestrator, name) for name in ("orch-1", "orch-2")]
    processes = [
        *budgets,
        *orchestrators,
        start("gateway", services.gateway),
        start("snapshotter", services.snapshotter),
    ]
    log = deployment.log(None)
    world.start("relay", lambda: relay(world, log, deployment.broker, deployment.relay, deployment.shards))
    _outsiders(world, deployment, budgets, orchestrators)
    await _until_quiet(deployment)
    judge(deployment)
    await _redeliver_everything(deployment, processes)
    deployment.over = True
    await world.finish(processes, within=LONGEST_S * 2)
    return deployment


def _start(world: World, deployment: SimulatedDeployment, name: str, main, *arguments: object):
    return world.start(name, lambda: main(deployment, *arguments))


def _outsiders(
    world: World,
    deployment: SimulatedDeployment,
    budgets: Sequence[SimulatedProcess],
    orchestrators: Sequence[SimulatedProcess],
) -> None:
    people.refuse_the_key(deployment)
    plans: list[Coroutine[object, object, None]] = []
    for build_id in deployment.build_ids:
        plans += [people.ask_for_build(deployment, build_id), people.cancel_build(deployment, build_id)]
        plans.append(people.answer_questions(deployment, build_id))
        plans.append(people.decide_about_calls(deployment, build_id))
        plans.append(people.answer_tool_calls(deployment, build_id))
        if world.draws.random() < 0.3:
            plans.append(people.pause_build(deployment, build_id))
        if world.draws.random() < 0.3:
            plans.append(people.send_message(deployment, build_id))
        if world.draws.random() < 0.3:
            plans.append(people.ask_for_wake(deployment, build_id))
    plans += [people.top_up(deployment, number) for number in range(world.draws.randrange(3))]
    plans += [people.empty_broker(deployment, *budgets) for _ in range(world.draws.randrange(3))]
    for replica in world.draws.choices(orchestrators, k=world.draws.randrange(4)):
        plans.append(people.stop_replica(deployment, replica, services.LEASE_S))
    plans += [people.redeliver(deployment, *budgets) for _ in range(world.draws.randrange(3))]
    for plan in plans:
        deployment.outsiders.add(asyncio.create_task(plan))


async def _until_quiet(deployment: SimulatedDeployment) -> None:
    """Waits until every build has ended and no row is pending. Raises Violation when that takes too long."""
    try:
        async with asyncio.timeout(LONGEST_S):
            while not deployment.all_ended or deployment.world.faulty:
                await deployment.beat()
    except TimeoutError:
        late = [one for one in deployment.build_ids if not deployment.ended(one)]
        raise Violation(f"not ended after {LONGEST_S:.0f} s: {', '.join(late)}") from None
    try:
        async with asyncio.timeout(SETTLING_S):
            while deployment.tables.pending:
                await deployment.beat()
    except TimeoutError:
        found = money.outlived(deployment.tables.pending.values())
        raise Violation("; ".join(found + verdict(deployment))) from None


async def _redeliver_everything(
    deployment: SimulatedDeployment, processes: Sequence[SimulatedProcess]
) -> None:
    """Publishes every fact and request again to restarted services. Raises Violation when that changes anything."""
    for outsider in deployment.outsiders:
        outsider.cancel()
    await asyncio.sleep(REDELIVERY_S / 3)
    history = deployment.history()
    handled = {event.causation_id for event in history}
    requests = [one for one in deployment.requests if one.event_id in handled]
    accounts = dict(deployment.ledger.accounts)
    for process in processes:
        deployment.world.kill(process, "before the redelivery of everything")
    deployment.broker.empty()
    await deployment.broker.publish([*history, *requests])
    await asyncio.sleep(REDELIVERY_S)
    added = [f"{one.stream_id} {one.data.type}" for one in deployment.history()[len(history) :]]
    if added or accounts != deployment.ledger.accounts:
        raise Violation(f"a redelivery changed accounts or appended {added}")
    judge(deployment)


def judge(deployment: SimulatedDeployment) -> None:
    """Raises Violation when the history breaks a promise."""
    if found := verdict(deployment):
        raise Violation("; ".join(found))


def verdict(deployment: SimulatedDeployment) -> list[str]:
    """Every broken promise of a run that is over."""
    found = money.violations(deployment.history())
    for build_id in deployment.build_ids:
        events = deployment.events(build_id)
        found += [f"{build_id}: {fault}" for fault in build_invariants.violations(events)]
        found += replays.violations(build_id, deployment.recorded(build_id), deployment.live)
        if events and not any(map(_expected_end, events)):
            found.append(f"{build_id} neither got ready nor was cancelled nor missed its deadline")
    for letter in deployment.broker.dead_letters:
        if letter.event.data.owner is not Owner.OUTSIDE:
            found.append(f"{letter.group} refused the fact {letter.event.data.type}: {letter.error}")
    if len(set(deployment.numbers.values())) != len(deployment.numbers):
        found.append(f"numbers of the project's builds: {deployment.numbers}")
    return found


def _expected_end(event: Event) -> bool:
    return isinstance(event, BuildReady | BuildCancelled) or (
        isinstance(event, BuildFailed) and event.reason == "deadline"
    )
