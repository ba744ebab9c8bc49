"""Reads settings from environment variables. An error names the variable and never shows its value."""

from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from nightshift.eventlog.errors import ConfigurationError
from nightshift.eventlog.passwords import password_of

PREFIX = "NIGHTSHIFT_"


class Environment(BaseSettings):
    """Settings that are read from `NIGHTSHIFT_<FIELD>` for each field.

    Errors never contain a value, because it may be a secret in the wrong variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment variables. Raises ConfigurationError, which names every missing or wrong variable."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise _named(error, cls) from None

    def secrets(self) -> Iterator[str]:
        """Yield every secret value and the password of every URL in one, so that logs can mask them."""
        for value in self.__dict__.values():
            if isinstance(value, SecretStr) and (secret := value.get_secret_value()):
                yield secret
                yield from password_of(secret)


class PostgresSettings(Environment):
    """The address of the event log's database. It is treated as a secret, because it may contain a password."""

    postgres_dsn: SecretStr = Field(examples=["postgresql://nightshift_relay@127.0.0.1:5432/nightshift"])


class ObjectStoreSettings(Environment):
    """The object store of large fields, snapshots and large dead letters. Without an endpoint it is Amazon S3."""

    s3_bucket: str = Field(min_length=1, examples=["nightshift"])
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key: str | None = None  # None: boto3 searches its usual places for credentials
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
    """Return the environment variable of a field.

    A field with an alias appears in errors under the alias, which is the variable itself.
    """
    return f"{PREFIX}{field.upper()}" if field in model.model_fields else field
