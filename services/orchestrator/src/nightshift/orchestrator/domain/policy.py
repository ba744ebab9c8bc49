"""The settings that decisions depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nightshift.contracts.models import SCRIPTED_MODEL, Role


@dataclass(frozen=True, slots=True)
class Policy:
    """Money is in microdollars, times are in seconds."""

    default_model: str = SCRIPTED_MODEL
    model_by_tier: bool = False  # instead of `default_model`
    role_models: Mapping[Role, str] = field(default_factory=dict)  # before both
    max_output_tokens: int = 16_000
    thinking_tokens: int = 16_000  # on top, for a model that thinks
    context_tokens: int = 200_000  # of a request, before the conversation is condensed
    summary_tokens: int = 8_000  # of the answer that condenses it
    grant_turns: int = 4  # turns that one grant should cover
    turn_limit: int | None = None  # none: by the tier
    tool_call_limit: int | None = None
    check_tries: int = 3
    judge_rounds: int = 3  # of judging the criteria, before a person is asked
    judge_answers: int = 20  # of the judge in one round
    max_cuts: int = 3  # answers in a row that ended at the output limit
    attempts: int = 6  # of one model call, before the build sleeps on its provider
    first_backoff_s: float = 1.0
    longest_backoff_s: float = 60.0
    longest_retry_after_s: float = 86_400.0  # a provider's longer wait is taken for an error of its own
    longest_wait_s: float = 120.0  # a wait beyond this is slept, not waited
    provider_sleep_s: float = 900.0
    provider_sleeps: int = 8  # in a row, without an answer between them
