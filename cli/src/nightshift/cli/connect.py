"""The settings of the installation that a command uses: from the environment, else of the stack on `--home`."""

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

#: The option for the folder in which `nightshift up` keeps its state.
Home = Annotated[Path, Parameter("--home", help="The folder of a running stack.", env_var="NIGHTSHIFT_HOME")]
DEFAULT_HOME = Path(".nightshift")
#: The option for structured output, which every command has.
Json = Annotated[bool, Parameter("--json", negative=(), help="Print JSON for machines.")]
BuildId = Annotated[str, Parameter(help="The build's id.")]
#: The largest number of lines in a list.
Limit = Annotated[int, Parameter(validator=Number(gte=1, lte=1000))]


def settings_for(kind: type[_S], home: Path, *, role: str = "nightshift_reader") -> _S:
    """Returns the settings of an installation, with this database role. An environment variable wins.

    Raises ConfigurationError when a setting is in neither.
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
        # A server that the stack did not start is used with the role and password of its own DSN.
        found["postgres_dsn"] = as_role(dsn, role) if ours else dsn
    if "kafka" in stack:
        # The embedded broker has no idempotent producer and does not wake a waiting fetch.
        embedded = stack["kafka"].get("pid") is not None
        found["kafka_bootstrap"] = stack["kafka"]["bootstrap"]
        found |= {"kafka_idempotence": not embedded, "kafka_adaptive_fetch": embedded}
    # Without keys the vendor's usual chain of credentials is used. Empty keys would prevent that.
    store = stack.get("s3", {})
    return found | {f"s3_{name}": value for name, value in store.items() if name != "pid" and value}


def on_embedded_broker(home: Path) -> bool:
    """Returns whether commands use the embedded broker of the stack on `home`."""
    if os.environ.get("NIGHTSHIFT_KAFKA_BOOTSTRAP"):
        return False
    kafka = (read_stack(home) or {}).get("kafka")
    return kafka is not None and kafka.get("pid") is not None


def as_role(dsn: str, role: str) -> str:
    """Returns the DSN of the same database for another role, without a password."""
    parts = urlsplit(dsn)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{role}@{address}"))
