"""Decides which servers a stack starts, which ones the user gives, and how many replicas of each service run."""

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nightshift.contracts.topics import Topics
from nightshift.devstack.errors import BadPlan
from nightshift.devstack.stack.broker_renewal import DEFAULT_LIMIT_MB

PARTS = ("postgres", "kafka", "s3", "model")

#: Service module → its database role, in the order in which services start and are displayed.
SERVICES: Mapping[str, str] = {
    "relay": "nightshift_relay",
    "orchestrator": "nightshift_orchestrator",
    "sandbox_gateway": "nightshift_sandbox_gateway",
    "snapshotter": "nightshift_snapshotter",
    "budget": "nightshift_budget",
}
_NEEDED = ("postgres", "kafka", "s3")
_LAST_PORT = 65_535
#: The environment variable with the memory limit of the embedded broker, in MiB.
_BROKER_MEMORY = "NIGHTSHIFT_BROKER_MEMORY_MB"


@dataclass(frozen=True, slots=True)
class Given:
    """Addresses of servers that the user runs. The stack uses them instead of starting its own."""

    postgres: str | None = None  # a DSN
    kafka: str | None = None  # bootstrap servers
    s3: str | None = None  # an endpoint; bucket and keys come from the environment
    model: str | None = None  # a base URL of the Messages API


@dataclass(frozen=True, slots=True)
class Plan:
    """The servers and services to start.

    `ports` has only the ports that the user chose. Other servers keep the port of the last run or get a random one.
    `broker_memory_mb` is the resident memory (MiB) above which the embedded broker is restarted.
    """

    home: Path
    parts: frozenset[str]
    services: Mapping[str, int]
    given: Given = Given()
    ports: Mapping[str, int] = field(default_factory=dict)
    scenario: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    broker_memory_mb: float = DEFAULT_LIMIT_MB
    topics: Topics = field(default_factory=Topics)

    def starts(self, part: str) -> bool:
        """Return whether the stack starts this server itself."""
        return part in self.parts and getattr(self.given, part) is None


def make_plan(
    home: Path,
    *,
    environ: Mapping[str, str],
    only: Iterable[str] = (),
    replicas: Mapping[str, int] | None = None,
    given: Given = Given(),
    ports: Mapping[str, int] | None = None,
    scenario: Path | None = None,
) -> Plan:
    """Combine flags and environment variables to a plan.

    Raises BadPlan when a flag or variable is wrong, or when they contradict each other.
    """
    asked = {name.strip().replace("-", "_") for name in only} - {""}
    counts = {name.replace("-", "_"): count for name, count in (replicas or {}).items()}
    _refuse_unknown(asked | set(counts))
    services = {
        name: counts.get(name, 1) for name in SERVICES if name in asked or (not asked and is_installed(name))
    }
    _refuse_no_ports(ports or {})
    parts = frozenset(asked & set(PARTS)) if asked else frozenset(PARTS)
    plan = Plan(
        home=home.absolute(),
        parts=parts,
        services={name: count for name, count in services.items() if count > 0},
        given=_complete(given, environ, scenario),
        ports={part: port for part, port in (ports or {}).items() if port},
        scenario=scenario,
        environ=environ,
        broker_memory_mb=_megabytes(environ),
        topics=Topics(prefix=environ.get("NIGHTSHIFT_TOPIC_PREFIX") or Topics().prefix),
    )
    _check_needs(plan)
    return plan


def service_name(module: str) -> str:
    """Return the public name of a service: `sandbox-gateway` for the module `sandbox_gateway`."""
    return module.replace("_", "-")


def is_installed(service: str) -> bool:
    """Return whether the service is installed and can run as a module."""
    module = f"nightshift.{service}"
    return importlib.util.find_spec(module) is not None and (
        importlib.util.find_spec(f"{module}.__main__") is not None
    )


def _megabytes(environ: Mapping[str, str]) -> float:
    value = environ.get(_BROKER_MEMORY, "").strip() or DEFAULT_LIMIT_MB
    try:
        if (number := float(value)) > 0:
            return number
    except ValueError:
        pass
    raise BadPlan(f"{_BROKER_MEMORY}={value} is not a number above 0", hint="give megabytes, such as 64")


def _complete(given: Given, environ: Mapping[str, str], scenario: Path | None) -> Given:
    """Return the given addresses, completed by those in environment variables. Flags have priority over variables.

    A scenario selects the scripted model, even when the environment has an API key.
    """
    model = given.model
    if model is None and scenario is None and environ.get("ANTHROPIC_API_KEY"):
        model = environ.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com"
    return Given(
        postgres=given.postgres or environ.get("NIGHTSHIFT_POSTGRES_DSN") or None,
        kafka=given.kafka or environ.get("NIGHTSHIFT_KAFKA_BOOTSTRAP") or None,
        s3=given.s3 or environ.get("NIGHTSHIFT_S3_ENDPOINT") or None,
        model=model,
    )


def _refuse_no_ports(ports: Mapping[str, int]) -> None:
    for part, port in ports.items():
        if not 0 <= port <= _LAST_PORT:
            raise BadPlan(
                f"--{part}-port {port} is no port",
                hint=f"a port is a number from 1 to {_LAST_PORT}; 0 takes any that is free",
            )


def _refuse_unknown(names: set[str]) -> None:
    known = [*PARTS, *map(service_name, SERVICES)]
    for name in sorted(names - {*PARTS, *SERVICES}):
        raise BadPlan(f"there is no part or service called {name}", hint=f"known are {', '.join(known)}")
    for name in sorted(names & set(SERVICES)):
        if not is_installed(name):
            raise BadPlan(
                f"the service {service_name(name)} is not installed",
                hint=f"install nightshift-{service_name(name)}",
            )


def _check_needs(plan: Plan) -> None:
    for service in plan.services:
        for part in _NEEDED:
            if part not in plan.parts and getattr(plan.given, part) is None:
                raise BadPlan(
                    f"{service_name(service)} needs {part}",
                    hint=f"add it to --only, or give its address with --{part}",
                )
