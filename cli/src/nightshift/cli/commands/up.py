"""`nightshift up`: starts the local stack and keeps it running until it is stopped."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from nightshift.cli.errors import WrongUsage
from nightshift.cli.exits import Exit
from nightshift.cli.output import note, write_fields, write_json, write_line
from nightshift.cli.stack import addresses
from nightshift.devstack.errors import BadPlan, PartFailed
from nightshift.devstack.parts import KafkaAddress
from nightshift.devstack.stack.home import hold
from nightshift.devstack.stack.plan import SERVICES, Given, Plan, make_plan, service_name
from nightshift.devstack.stack.supervisor import Stack

app = App(name="up")


Port = Annotated[int, Parameter(show_default=False)]


@app.default
def up(
    *,
    home: Annotated[Path, Parameter(env_var="NIGHTSHIFT_HOME")] = Path(".nightshift"),
    only: Annotated[str, Parameter(show_default=False)] = "",
    replicas: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    postgres: str | None = None,
    kafka: str | None = None,
    s3: str | None = None,
    model: str | None = None,
    scenario: Path | None = None,
    postgres_port: Port = 0,
    kafka_port: Port = 0,
    s3_port: Port = 0,
    model_port: Port = 0,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> Exit:
    """Start PostgreSQL, a Kafka-protocol broker, an S3 server, a model and every service; stop all of it on Ctrl-C.

    The home folder keeps the event log and the object store between runs. The broker's memory is lost.

    For example:

        nightshift up

        nightshift up --only postgres,kafka,s3 --json

        nightshift up --replicas orchestrator=2 --home /tmp/second

    Args:
        home: The folder of this stack. Several stacks run side by side on folders of their own.
        only: Start these parts and services only, separated by commas.
        replicas: How many processes of a service, such as orchestrator=2. May be given several times.
        postgres: Use this PostgreSQL (a DSN) and start none. Also NIGHTSHIFT_POSTGRES_DSN.
        kafka: Use this broker (bootstrap servers) and start none. Also NIGHTSHIFT_KAFKA_BOOTSTRAP.
        s3: Use this object store (an endpoint) and start none. Also NIGHTSHIFT_S3_ENDPOINT and NIGHTSHIFT_S3_BUCKET.
        model: Use the Messages API at this URL and start no scripted model. With ANTHROPIC_API_KEY Claude is used.
        scenario: What the scripted model answers. It is used then even when ANTHROPIC_API_KEY is set.
        postgres_port: The port of PostgreSQL. Default, that of the last run, else a free one; likewise below.
        kafka_port: The port of the broker.
        s3_port: The port of the object store.
        model_port: The port of the scripted model.
        json: Print one JSON object on the first line when all is ready.
    """
    try:
        plan = make_plan(
            home,
            environ=os.environ,
            only=only.split(","),
            replicas=_counts(replicas),
            given=Given(postgres=postgres, kafka=kafka, s3=s3, model=model),
            ports={"postgres": postgres_port, "kafka": kafka_port, "s3": s3_port, "model": model_port},
            scenario=scenario,
        )
    except BadPlan as error:
        raise WrongUsage(str(error), hint=error.hint) from None
    if scenario is not None:
        # Errors in the scenario are reported before anything starts. Imported only with a scenario, because the YAML
        # reader loads slowly.
        from nightshift.devstack.model.scenario import load_scenario  # noqa: PLC0415

        load_scenario(scenario)
    try:
        with hold(plan.home):
            return asyncio.run(_run(plan, as_json=json))
    except PartFailed as error:
        note(error.tail)
        raise


async def _run(plan: Plan, *, as_json: bool) -> Exit:
    stack = Stack(
        plan,
        say=lambda text: note(f"nightshift: {text}"),
        load_clients=_load_clients,
        apply_topics=_apply_topics,
    )
    asked = _stop_signals(stack)
    starting = asyncio.create_task(stack.start())
    stopping = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return Exit.INTERRUPTED
        await starting
        _announce(plan, stack.describe(), as_json=as_json)
        await stopping
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await stack.stop()
    return Exit.OK


def _stop_signals(stack: Stack) -> asyncio.Event:
    """Returns an event that the first SIGINT, SIGTERM or SIGHUP sets. A second signal kills all processes at once."""
    asked, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if asked.is_set():
            stack.kill()
        else:
            asked.set()
            note("nightshift: stopping")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    return asked


def _announce(plan: Plan, stack: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        write_json(stack)
        return
    parts = addresses(stack)
    counts = {name: len(replicas) for name, replicas in stack["services"].items()}
    services = (name if count == 1 else f"{name} x {count}" for name, count in counts.items())
    write_line("Nightshift is up.")
    write_fields(
        {
            **parts,
            "model": f"{parts['model']} ({_which_model(plan)})" if "model" in parts else "none",
            "services": ", ".join(services) or "none",
            "data": f"{plan.home} (the log and the objects are kept, the broker's memory is not)",
            "logs": plan.home / "logs",
        }
    )
    write_line("Press Ctrl-C to stop everything.")


def _which_model(plan: Plan) -> str:
    if not plan.starts("model"):
        return "the Messages API given" if plan.given.model != "https://api.anthropic.com" else "Claude"
    return f"scripted: {plan.scenario or 'the built-in scenario, not a real model'}"


def _counts(replicas: tuple[str, ...]) -> dict[str, int]:
    counts = {}
    for one in (part for given in replicas for part in given.split(",")):
        name, _, count = one.partition("=")
        if not count.isdecimal():
            raise WrongUsage(f"--replicas {one} is not understood", hint="write it as orchestrator=2")
        if name.replace("-", "_") not in SERVICES:
            known = ", ".join(map(service_name, SERVICES))
            raise WrongUsage(f"there is no service called {name}", hint=f"known are {known}")
        counts[name] = int(count)
    return counts


def _load_clients() -> None:
    """Imports slow modules in a thread while the servers start.

    Importing them earlier would delay the start by a second.
    """
    from nightshift.eventlog import migrate  # noqa: F401, PLC0415
    from nightshift.relay.adapters import kafka_topics  # noqa: F401, PLC0415
    from nightshift.servicekit import logs  # noqa: PLC0415

    logs.configure(level="warning", format="console")  # stdout is for data


async def _apply_topics(address: KafkaAddress) -> None:
    from nightshift.bus.settings import KafkaSettings  # noqa: PLC0415
    from nightshift.relay.adapters.kafka_topics import apply  # noqa: PLC0415

    settings = KafkaSettings.load(
        kafka_bootstrap=address.bootstrap,
        kafka_idempotence=address.idempotence,
        kafka_adaptive_fetch=address.adaptive_fetch,
    )
    await apply(settings, partitions=address.partitions, replication=address.replication)
