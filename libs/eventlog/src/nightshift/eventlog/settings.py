"""Reads settings from environment variables. An error names the variable and never shows its value."""

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.passwords import password_of
from nightshift.eventlog.setting_names import KNOWN

PREFIX = "NIGHTSHIFT_"

#: Kubernetes sets such variables in every container for each Service whose name begins with `nightshift-`.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?$")


class Environment(BaseSettings):
    """Settings, each read from the environment variable `NIGHTSHIFT_<FIELD>`.

    Errors never contain a value, because it may be a secret in the wrong variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment variables; `overrides` replace single fields.

        Raises ConfigurationError, which names every missing, wrong or unknown variable.
        """
        cls._refuse_unknown()
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise _named(error, cls) from None

    @classmethod
    def _refuse_unknown(cls) -> None:
        """Raise ConfigurationError for a variable that begins with `NIGHTSHIFT_` but is no setting.

        A misspelled variable would otherwise have no effect.
        """
        known = KNOWN | {PREFIX + name.upper() for name in cls.model_fields}
        given = {name for name, value in os.environ.items() if name.startswith(PREFIX) and value}
        # A Service of Kubernetes gives its address as NIGHTSHIFT_…_PORT=tcp://….
        links = {name for name in given if _SERVICE_LINK.search(name) or "://" in os.environ[name][:6]}
        unknown = sorted(given - known - links)
        if unknown:
            near = {name: get_close_matches(name, known, n=1, cutoff=0.6) for name in unknown}
            hints = [f"{match[0]} in place of {name}" for name, match in near.items() if match]
            raise ConfigurationError(
                f"there is no setting {', '.join(unknown)}",
                hint=f"did you mean {'; '.join(hints)}?"
                if hints
                else "docs/reference/settings.md lists all settings",
            )

    def secrets(self) -> Iterator[str]:
        """Yield every secret value, and the passwords of URLs in these values, so that logs can mask them."""
        for value in self.__dict__.values():
            if isinstance(value, SecretStr) and (secret := value.get_secret_value()):
                yield secret
                yield from password_of(secret)


class PostgresSettings(Environment):
    """The address of the event log's database. It is treated as a secret, because it may contain a password."""

    # The event log's database, such as postgresql://nightshift_relay:PASSWORD@HOST/nightshift?sslmode=verify-full.
    postgres_dsn: SecretStr = Field(examples=["postgresql://nightshift_relay@127.0.0.1:5432/nightshift"])


class ObjectStoreSettings(Environment):
    """The object store for large event fields, snapshots and large dead letters. Without an endpoint it is Amazon
    S3.
    """

    # The bucket of large fields, snapshots and oversized dead letters. Optional for relay and budget.
    s3_bucket: str = Field(min_length=1, examples=["nightshift"])
    # The address of an S3-compatible server. None: Amazon S3.
    s3_endpoint: str | None = None
    # The bucket's region.
    s3_region: str = "us-east-1"
    s3_access_key: str | None = None  # None: boto3 searches its usual places for credentials
    # Given together with the access key.
    s3_secret_key: SecretStr | None = None


def _named(error: ValidationError, model: type[BaseModel]) -> ConfigurationError:
    complaints, hint = [], None
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        field = str(detail["loc"][0]) if detail["loc"] else ""
        variable = _variable(model, field)
        if detail["type"] == "missing":
            complaints.append(f"{variable} is not set")
            info = model.model_fields.get(field)
            example = f", such as {variable}={info.examples[0]}" if info and info.examples else ""
            hint = hint or f"set {variable}{example}"
        elif field:
            complaints.append(f"{variable} is wrong: {detail['msg']}")
            hint = hint or f"correct {variable} in the environment of this process"
        else:
            complaints.append(detail["msg"].removeprefix("Value error, "))
    return ConfigurationError("; ".join(complaints), hint=hint)


def _variable(model: type[BaseModel], field: str) -> str:
    """Return the name of the environment variable that sets a field, for an error message.

    `field` is the name in pydantic's error. For a field with an alias that is the alias, which is the variable's name
    already.
    """
    return f"{PREFIX}{field.upper()}" if field in model.model_fields else field
