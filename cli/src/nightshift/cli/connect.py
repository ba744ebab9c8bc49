"""Which installation a command talks to: the variables of the environment, else the stack that runs on `--home`."""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit, urlunsplit

import cyclopts

from nightshift.devstack.stack.home import read_stack
from nightshift.runtime.errors import ConfigurationError
from nightshift.runtime.settings import Settings

#: Where `nightshift up` keeps its state, on every command that talks to a stack.
Home = Annotated[
    Path,
    cyclopts.Parameter(name="--home", help="The folder of a running `nightshift up`.", env_var="NIGHTSHIFT_HOME"),
]
DEFAULT_HOME = Path(".nightshift")
#: Structured output, on every command.
Json = Annotated[bool, cyclopts.Parameter(name="--json", negative=(), help="Print JSON for machines.")]


def settings_for(home: Path, *, role: str) -> Settings:
    """The settings of an installation, with a database role of our own. A set variable wins over the stack's value.

    Raises ConfigurationError when there is neither.
    """
    given = {name.removeprefix("NIGHTSHIFT_").lower() for name, value in os.environ.items() if value}
    told = {name: value for name, value in _of_stack(home, role).items() if name not in given}
    if not told and "postgres_dsn" not in given:
        raise ConfigurationError(
            f"no stack runs on {home}, and NIGHTSHIFT_POSTGRES_DSN is not set",
            hint="start one with `nightshift up`, name its folder with --home, or set the NIGHTSHIFT_ variables",
        )
    return Settings.load(**told)


def _of_stack(home: Path, role: str) -> Mapping[str, Any]:
    stack = read_stack(home)
    if stack is None:
        return {}
    told: dict[str, Any] = {}
    if "postgres" in stack:
        told["postgres_dsn"] = as_role(stack["postgres"]["dsn"], role)
    if "kafka" in stack:
        # The embedded broker has no idempotent producer and does not wake a waiting fetch.
        embedded = stack["kafka"].get("pid") is not None
        told |= {
            "kafka_bootstrap": stack["kafka"]["bootstrap"],
            "kafka_idempotence": not embedded,
            "kafka_adaptive_fetch": embedded,
        }
    if "s3" in stack:
        store = stack["s3"]
        told |= {
            "s3_endpoint": store["endpoint"],
            "s3_bucket": store["bucket"],
            "s3_access_key": store["access_key"],
            "s3_secret_key": store["secret_key"],
        }
    return told


def as_role(dsn: str, role: str) -> str:
    """The same database as another role, without the first one's password."""
    parts = urlsplit(dsn)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}@{address}"))


@contextlib.asynccontextmanager
async def closing(*things: Any) -> AsyncIterator[None]:
    """Close what has an async `close`, last first, whatever happened inside."""
    try:
        yield
    finally:
        for thing in reversed(things):
            await thing.close()
