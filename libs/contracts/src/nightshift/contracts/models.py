"""The AI models that a build can use: their limits, how they think, and which model each tier gives to a role.

Source: the vendor's model, effort and deprecation pages at platform.claude.com and the types of its Python SDK 2.12,
read on 2026-11-27. Prices are in `prices`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

from nightshift.contracts.errors import UnknownModel

#: The builder's model when neither the request nor the orchestrator's settings name one.
DEFAULT_MODEL: Final = "claude-sonnet-5-5"
#: The default model of the local stack, where a script answers in place of the Messages API.
SCRIPTED_MODEL: Final = "scripted-1"
#: Other ids of the same models. A dated id that is not listed has no price.
ALIASES: Final[Mapping[str, str]] = {
    "claude-opus-4-5-20251101": "claude-opus-4-5",
    "claude-opus-4-1-20250805": "claude-opus-4-1",
    "claude-sonnet-4-5-20250929": "claude-sonnet-4-5",
    "claude-haiku-4-5-20251001": "claude-haiku-4-5",
}

Tier = Literal["economy", "standard", "priority"]
#: What a model does for a build: it builds, judges the criteria, or condenses the conversation.
Role = Literal["builder", "judge", "condenser"]
#: How a model thinks. `always`: adaptive, cannot be turned off. `adaptive`: can be turned off. `either`: adaptive or
#: with a budget of tokens. `budget`: only with a budget. `none`: takes no thinking parameter.
Thinking = Literal["always", "adaptive", "either", "budget", "none"]

_ALL: Final = ("low", "medium", "high", "xhigh", "max")
_NO_XHIGH: Final = ("low", "medium", "high", "max")
_NO_MAX: Final = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The limits of a model in tokens, how it thinks, its effort levels, and the day the vendor retires it, if
    known.
    """

    context: int = 1_000_000
    max_output: int = 128_000
    thinking: Thinking = "adaptive"
    efforts: tuple[str, ...] = _ALL
    retires: date | None = None


CARDS: Final[Mapping[str, ModelCard]] = {
    "claude-fable-5-2": ModelCard(thinking="always"),
    "claude-fable-5-1": ModelCard(thinking="always"),
    "claude-fable-5": ModelCard(thinking="always"),
    "claude-opus-5-5": ModelCard(thinking="always"),
    "claude-opus-5": ModelCard(),
    "claude-opus-4-8": ModelCard(),
    "claude-opus-4-7": ModelCard(),
    "claude-opus-4-6": ModelCard(thinking="either", efforts=_NO_XHIGH),
    "claude-opus-4-5": ModelCard(200_000, 64_000, "budget", _NO_MAX),
    "claude-opus-4-1": ModelCard(200_000, 32_000, "budget", (), date(2026, 8, 5)),
    "claude-sonnet-5-5": ModelCard(),
    "claude-sonnet-5": ModelCard(),
    "claude-sonnet-4-6": ModelCard(max_output=64_000, thinking="either", efforts=_NO_XHIGH),
    "claude-sonnet-4-5": ModelCard(200_000, 64_000, "budget", (), date(2026, 11, 30)),
    "claude-haiku-5-5": ModelCard(),
    "claude-haiku-4-5": ModelCard(200_000, 64_000, "budget", ()),
    SCRIPTED_MODEL: ModelCard(thinking="none", efforts=()),
}

#: Retired models, which have no price. They are listed so that a refusal can name the reason.
_RETIRED: Final[Mapping[str, date]] = {
    "claude-3-opus-20240229": date(2026, 1, 5),
    "claude-3-7-sonnet-20250219": date(2026, 2, 19),
    "claude-3-7-sonnet-latest": date(2026, 2, 19),
    "claude-3-5-haiku-20241022": date(2026, 2, 19),
    "claude-3-5-haiku-latest": date(2026, 2, 19),
    "claude-opus-4-0": date(2026, 6, 15),
    "claude-opus-4-20250514": date(2026, 6, 15),
    "claude-sonnet-4-0": date(2026, 6, 15),
    "claude-sonnet-4-20250514": date(2026, 6, 15),
    "claude-mythos-preview": date(2026, 6, 30),
}


@dataclass(frozen=True, slots=True)
class TierModels:
    """The settings that a tier gives a build: a model for each role, the builder's effort, and the most turns and tool
    calls.
    """

    models: Mapping[Role, str]
    effort: str
    turns: int
    tool_calls: int


TIERS: Final[Mapping[Tier, TierModels]] = {
    "economy": TierModels(
        {"builder": "claude-haiku-5-5", "judge": "claude-haiku-5-5", "condenser": "claude-haiku-5-5"},
        "medium",
        turns=300,
        tool_calls=500,
    ),
    "standard": TierModels(
        {"builder": "claude-sonnet-5-5", "judge": "claude-sonnet-5-5", "condenser": "claude-haiku-5-5"},
        "high",
        turns=500,
        tool_calls=1_000,
    ),
    "priority": TierModels(
        {"builder": "claude-opus-5-5", "judge": "claude-sonnet-5-5", "condenser": "claude-haiku-5-5"},
        "high",
        turns=1_000,
        tool_calls=2_000,
    ),
}


def card_of(model: str) -> ModelCard:
    """Returns the card of a model by its id or alias, even of a retired model. Raises UnknownModel."""
    card = CARDS.get(ALIASES.get(model, model))
    if card is None:
        raise UnknownModel(f"no model {model[:128]!r}; there are {', '.join(CARDS)}")
    return card


def check_usable(model: str, today: date) -> None:
    """Raises UnknownModel when the model does not exist, or when the vendor has retired it by `today`."""
    retired = _RETIRED.get(model) or card_of(model).retires
    if retired is not None and retired <= today:
        raise UnknownModel(
            f"the model {model!r} was retired on {retired}; the default is {TIERS['standard'].models['builder']}"
        )
