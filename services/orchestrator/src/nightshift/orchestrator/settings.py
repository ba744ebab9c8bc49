"""The orchestrator's settings, which are read from the environment."""

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from nightshift.contracts.models import DEFAULT_MODEL, SCRIPTED_MODEL, Role
from nightshift.orchestrator.adapters.provider_key import key_id_of
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.usecases.build_scheduler import SchedulerSettings
from nightshift.servicekit.settings import Settings


class OrchestratorSettings(Settings):
    """The orchestrator's settings. Money is in microdollars, and times are in seconds.

    The settings for the model's address and keys have the vendor's names.
    """

    # The key of the model provider, unless the address is another server's.
    anthropic_api_key: SecretStr | None = Field(None, validation_alias="ANTHROPIC_API_KEY")
    # In place of the key: a token for a gateway in front of the provider.
    anthropic_auth_token: SecretStr | None = Field(None, validation_alias="ANTHROPIC_AUTH_TOKEN")
    # Another address of the Messages API. None: Anthropic's.
    anthropic_base_url: str | None = Field(None, validation_alias="ANTHROPIC_BASE_URL")
    model: str | None = None  # none: by the tier at Anthropic's own address, the scripted model elsewhere
    judge_model: str | None = None  # the model that judges criteria; none: as the builder
    # The model that condenses long conversations.
    condenser_model: str | None = None
    model_silence_s: float = Field(120.0, gt=0, le=3_600)  # a stream without a byte for so long is closed
    # The longest answer of the model, without its thinking.
    max_output_tokens: int = Field(16_000, ge=256, le=128_000)
    thinking_tokens: int = Field(16_000, ge=0, le=128_000)  # in addition, for a model that thinks
    context_tokens: int = Field(
        200_000, ge=20_000
    )  # the largest request before the conversation is condensed
    grant_turns: int = Field(4, ge=1, le=100)  # turns that one request for money should cover
    turn_limit: int | None = Field(None, ge=1)  # none: by the tier
    # Tool calls of a build. None: by the tier.
    tool_call_limit: int | None = Field(None, ge=1)
    # Failed checks after which the build fails.
    check_tries: int = Field(3, ge=1)
    judge_rounds: int = Field(3, ge=1)  # rounds of judging the criteria before a person is asked
    # Attempts at a model call before a person is asked or the build sleeps.
    model_attempts: int = Field(6, ge=1)
    # The pause after the first failed attempt. It doubles with each attempt.
    model_first_backoff_s: float = Field(1.0, gt=0, le=3_600)
    # How long a build sleeps when the provider stays overloaded.
    provider_sleep_s: float = Field(900.0, gt=0, le=86_400)
    # The first time until a refused key is tried again. It doubles.
    provider_probe_s: float = Field(30.0, gt=0, le=86_400)
    # The longest time until a refused key is tried again.
    longest_provider_probe_s: float = Field(900.0, gt=0, le=86_400)
    max_builds: int = Field(200, ge=1)  # the most builds at once in one process
    max_account_builds: int = Field(
        100, ge=1
    )  # of one account that are active, unless its policy says how many
    # How long the builds of a dead orchestrator wait for another.
    build_lease_s: float = Field(10.0, ge=0.5, le=3_600)
    build_look_every_s: float = Field(2.0, gt=0, le=3_600)  # how often it looks for builds that nobody runs

    @model_validator(mode="after")
    def _may_ask_claude(self) -> Self:
        if self._at_anthropic() and not (self.anthropic_api_key or self.anthropic_auth_token):
            raise ValueError("ANTHROPIC_API_KEY is not set, nor ANTHROPIC_BASE_URL to another server")
        return self

    @property
    def provider_key(self) -> str:
        """A hash that identifies the key in the log, in metrics and for people."""
        secret = self.anthropic_api_key or self.anthropic_auth_token
        return key_id_of(secret.get_secret_value() if secret else "", self.anthropic_base_url)

    def policy(self) -> Policy:
        """Return the settings on which decisions depend."""
        return Policy(
            default_model=self.model or self._fitting_model(),
            model_by_tier=self.model is None and self._at_anthropic(),
            role_models=self._role_models(),
            max_output_tokens=self.max_output_tokens,
            thinking_tokens=self.thinking_tokens,
            context_tokens=self.context_tokens,
            grant_turns=self.grant_turns,
            turn_limit=self.turn_limit,
            tool_call_limit=self.tool_call_limit,
            check_tries=self.check_tries,
            judge_rounds=self.judge_rounds,
            attempts=self.model_attempts,
            first_backoff_s=self.model_first_backoff_s,
            provider_sleep_s=self.provider_sleep_s,
        )

    def scheduler(self) -> SchedulerSettings:
        """Return the settings of the build scheduler."""
        return SchedulerSettings(
            owner=self.lease_owner,
            capacity=self.max_builds,
            per_account=self.max_account_builds,
            lease_s=self.build_lease_s,
            look_every_s=self.build_look_every_s,
        )

    def _role_models(self) -> dict[Role, str]:
        named: dict[Role, str | None] = {"judge": self.judge_model, "condenser": self.condenser_model}
        return {role: model for role, model in named.items() if model is not None}

    def _fitting_model(self) -> str:
        return DEFAULT_MODEL if self._at_anthropic() else SCRIPTED_MODEL

    def _at_anthropic(self) -> bool:
        host = urlsplit(self.anthropic_base_url or "https://api.anthropic.com").hostname or ""
        return host == "anthropic.com" or host.endswith(".anthropic.com")
