"""Finds the settings for a command: in environment variables, or else from the stack that runs on `--home`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from cyclopts import Parameter
from cyclopts.validators import Number

from nightshift.devstack.stack.home import read_stack, snapshot_key
from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.settings import Environment

_S = TypeVar("_S", bound=Environment)

#: The option `--home`: the folder in which `nightshift up` keeps its state.
Home = Annotated[Path, Parameter("--home", help="The folder of a running stack.", env_var="NIGHTSHIFT_HOME")]
DEFAULT_HOME = Path(".nightshift")
#: The option `--json`, which every command has.
Json = Annotated[bool, Parameter("--json", negative=(), help="Print JSON for machines.")]
BuildId = Annotated[str, Parameter(help="The build's id.")]
#: The most entries that a list prints.
Limit = Annotated[int, Parameter(validator=Number(gte=1, lte=1000))]


def settings_for(kind: type[_S], home: Path, *, role: str = "nightshift_reader") -> _S:
    """Returns settings of the class `kind` for a command: from environment variables, or else from the stack on `home`.

    `role` is the database role to connect as. Raises ConfigurationError when neither source has a required setting.
    """
    given = {name.removeprefix("NIGHTSHIFT_").lower() for name, value in os.environ.items() if value}
    stack = _of_stack(home, role)
    missing = {
        name: value for name, value in stack.items() if name in kind.model_fields and name not in given
    }
    if not stack and not given & {name for name, field in kind.model_fields.items() if field.is_required()}:
        raise ConfigurationError(
            f"no stack runs on {home}, and no NIGHTSHIFT_ variables name one elsewhere",
            hint="start one with `nightshift up`, or name the folder of a running one with --home",
        )
    return kind.load(**missing)


def _of_stack(home: Path, role: str) -> Mapping[str, Any]:
    stack = read_stack(home) or {}
    found: dict[str, Any] = {"snapshot_key": snapshot_key(home)} if stack else {}
    if "postgres" in stack:
        dsn, ours = stack["postgres"]["dsn"], stack["postgres"]["pid"] is not None
        # For a server that the stack did not start, the role and password of its own DSN are used.
        found["postgres_dsn"] = as_role(dsn, role) if ours else dsn
    if "kafka" in stack:
        # The embedded broker refuses idempotent producers and does not answer waiting fetches.
        embedded = stack["kafka"].get("pid") is not None
        found["kafka_bootstrap"] = stack["kafka"]["bootstrap"]
        found |= {"kafka_idempotence": not embedded, "kafka_adaptive_fetch": embedded}
    # Empty keys are left out, so that boto3 searches for credentials in its usual places.
    store = stack.get("s3", {})
    return found | {f"s3_{name}": value for name, value in store.items() if name != "pid" and value}


def on_embedded_broker(home: Path) -> bool:
    """Returns whether commands use the embedded broker of the stack on this home."""
    if os.environ.get("NIGHTSHIFT_KAFKA_BOOTSTRAP"):
        return False
    kafka = (read_stack(home) or {}).get("kafka")
    return kafka is not None and kafka.get("pid") is not None


def as_role(dsn: str, role: str) -> str:
    """Returns the DSN of the same database for another role and without a password."""
    parts = urlsplit(dsn)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}@{address}"))
