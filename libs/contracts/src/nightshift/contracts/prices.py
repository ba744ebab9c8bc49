"""Computes the cost of a model call in whole microdollars. Each charge records the version of the price table.

Source of version 2026-11-22: Anthropic's public list prices (models and pricing pages of platform.claude.com) for the
first-party API at standard speed, read on 2026-11-22 and, unchanged, on 2026-11-27. They were compared with the data of
`genai-prices` 0.2.3. Where these pages give no price, a cache write costs 1.25 × the input (5 minutes) or 2 × (1 hour),
and a cache read costs 0.1 ×.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nightshift.contracts.errors import UnknownModel
from nightshift.contracts.events.build import Usage
from nightshift.contracts.models import ALIASES, SCRIPTED_MODEL

_PER = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Prices in microdollars per million tokens, by kind of token."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int

    @property
    def dearest_input(self) -> int:
        """The price of the dearest kind of prompt token. Before a call nobody knows which of its prompt tokens are
        cached.
        """
        return max(self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h)


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """The price of a model. Some models cost more when the prompt is long.

    When the prompt, including its cached tokens, has more than `long_from` tokens, the whole call is billed at `long`.
    """

    base: Price
    long_from: int | None = None
    long: Price | None = None

    def for_prompt(self, tokens: int) -> Price:
        """Returns the price of a call whose prompt has this many tokens."""
        if self.long is not None and self.long_from is not None and tokens > self.long_from:
            return self.long
        return self.base


def cost(model: str, usage: Usage, *, version: str | None = None) -> int:
    """Returns the cost of these tokens in microdollars, rounded up. `version` selects the price table; None is the
    newest.

    Raises UnknownModel for a model or a version without prices.
    """
    prompt = (
        usage.input_tokens
        + usage.cache_read_input_tokens
        + usage.cache_write_5m_input_tokens
        + usage.cache_write_1h_input_tokens
    )
    price = price_of(model, version=version).for_prompt(prompt)
    return _rounded_up(
        usage.input_tokens * price.input
        + usage.output_tokens * price.output
        + usage.cache_read_input_tokens * price.cache_read
        + usage.cache_write_5m_input_tokens * price.cache_write_5m
        + usage.cache_write_1h_input_tokens * price.cache_write_1h
    )


def worst_case(model: str, prompt_tokens: int, max_output_tokens: int, *, version: str | None = None) -> int:
    """Returns the highest possible cost of a call in microdollars: all output tokens are used, and each prompt token
    has the highest price.

    Raises UnknownModel for a model without a price, and ValueError for a negative count.
    """
    if prompt_tokens < 0 or max_output_tokens < 0:
        raise ValueError("tokens cannot be negative")
    price = price_of(model, version=version).for_prompt(prompt_tokens)
    return _rounded_up(prompt_tokens * price.dearest_input + max_output_tokens * price.output)


def price_of(model: str, *, version: str | None = None) -> ModelPrice:
    """Returns the price of a model by its id or alias. Raises UnknownModel."""
    version = NEWEST if version is None else version
    table = TABLES.get(version)
    if table is None:
        raise UnknownModel(f"no price table of version {version[:128]!r}; the newest is {NEWEST}")
    price = table.get(ALIASES.get(model, model))
    if price is None:
        raise UnknownModel(f"no price for the model {model[:128]!r} in the table of {version}")
    return price


def _rounded_up(millionths: int) -> int:
    return -(-millionths // _PER)


def _price(input_: int, output: int, *, cache_read: int | None = None) -> Price:
    """Returns a Price from microdollars per million tokens. Cache prices are derived from the input price."""
    return Price(
        input=input_,
        output=output,
        cache_read=input_ // 10 if cache_read is None else cache_read,
        cache_write_5m=input_ * 5 // 4,
        cache_write_1h=input_ * 2,
    )


_USD = 1_000_000
_CENT = 10_000

_2026_11_22: Final[Mapping[str, ModelPrice]] = {
    "claude-fable-5-2": ModelPrice(_price(8 * _USD, 40 * _USD, cache_read=20 * _CENT)),
    "claude-fable-5-1": ModelPrice(_price(10 * _USD, 50 * _USD, cache_read=25 * _CENT)),
    "claude-fable-5": ModelPrice(_price(10 * _USD, 50 * _USD)),
    "claude-opus-5-5": ModelPrice(_price(4 * _USD, 20 * _USD, cache_read=20 * _CENT)),
    "claude-opus-5": ModelPrice(_price(5 * _USD, 25 * _USD)),
    "claude-opus-4-8": ModelPrice(_price(5 * _USD, 25 * _USD)),
    "claude-opus-4-7": ModelPrice(_price(5 * _USD, 25 * _USD)),
    "claude-opus-4-6": ModelPrice(_price(5 * _USD, 25 * _USD)),
    "claude-opus-4-5": ModelPrice(_price(5 * _USD, 25 * _USD)),
    "claude-opus-4-1": ModelPrice(_price(15 * _USD, 75 * _USD)),
    "claude-sonnet-5-5": ModelPrice(_price(2 * _USD, 10 * _USD, cache_read=10 * _CENT)),
    "claude-sonnet-5": ModelPrice(_price(2 * _USD, 10 * _USD)),
    "claude-sonnet-4-6": ModelPrice(_price(3 * _USD, 15 * _USD)),
    "claude-sonnet-4-5": ModelPrice(
        _price(3 * _USD, 15 * _USD), long_from=200_000, long=_price(6 * _USD, 2250 * _CENT)
    ),
    "claude-haiku-5-5": ModelPrice(
        _price(10 * _CENT, 50 * _CENT), long_from=100_000, long=_price(50 * _CENT, 250 * _CENT)
    ),
    "claude-haiku-4-5": ModelPrice(_price(1 * _USD, 5 * _USD)),
    # The scripted model of the demo and the tests has a price, so that a day's budget can run out.
    SCRIPTED_MODEL: ModelPrice(_price(3 * _USD, 15 * _USD)),
}

#: Version → model id → price. Old tables stay, because charges in the log name their version.
TABLES: Final[Mapping[str, Mapping[str, ModelPrice]]] = {"2026-11-22": _2026_11_22}
#: The table that new charges use.
NEWEST: Final = "2026-11-22"
