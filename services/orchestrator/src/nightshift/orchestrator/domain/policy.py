"""The settings on which decisions depend."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nightshift.contracts.models import SCRIPTED_MODEL, Role


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings on which decisions about a build depend. Money is in microdollars, and times are in seconds."""

    default_model: str = SCRIPTED_MODEL
    model_by_tier: bool = False  # True: the tier chooses the model, not `default_model`
    role_models: Mapping[Role, str] = field(default_factory=dict)  # has precedence over both
    max_output_tokens: int = 16_000
    thinking_tokens: int = 16_000  # in addition, for a model that thinks
    context_tokens: int = 200_000  # the most tokens of a request before the conversation is condensed
    summary_tokens: int = 8_000  # the most tokens of the answer that condenses it
    grant_turns: int = 4  # how many turns one grant should cover
    turn_limit: int | None = None  # None: the tier decides
    tool_call_limit: int | None = None
    check_tries: int = 3
    judge_rounds: int = 3  # rounds of judging the criteria before a person is asked
    judge_answers: int = 20  # answers of the judge in one round
    max_cuts: int = 3  # answers in a row that may end at the output limit
    attempts: int = 6  # attempts at one model call before the build sleeps until the provider works
    first_backoff_s: float = 1.0
    longest_backoff_s: float = 60.0
    # When a provider asks for a longer wait, its answer is taken for wrong.
    longest_retry_after_s: float = 86_400.0
    longest_wait_s: float = 120.0  # for a longer wait the build sleeps
    provider_sleep_s: float = 900.0
    provider_sleeps: int = 8  # sleeps in a row without an answer between them
