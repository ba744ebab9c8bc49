import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.contracts import prices
from nightshift.contracts.errors import UnknownModel
from nightshift.contracts.events.build import Usage
from nightshift.contracts.models import DEFAULT_MODEL, SCRIPTED_MODEL
from nightshift.contracts.prices import cost

ROOT = Path(__file__).parents[3]

counts = st.integers(0, 3_000_000)
usages = st.builds(
    Usage,
    input_tokens=counts,
    output_tokens=counts,
    cache_read_input_tokens=counts,
    cache_write_5m_input_tokens=counts,
    cache_write_1h_input_tokens=counts,
)
model_ids = st.sampled_from(sorted(prices.TABLES[prices.NEWEST]))


def prompt_of(usage):
    return (
        usage.input_tokens
        + usage.cache_read_input_tokens
        + usage.cache_write_5m_input_tokens
        + usage.cache_write_1h_input_tokens
    )


def exact(model, usage):
    price = prices.price_of(model).for_prompt(prompt_of(usage))
    return Fraction(
        usage.input_tokens * price.input
        + usage.output_tokens * price.output
        + usage.cache_read_input_tokens * price.cache_read
        + usage.cache_write_5m_input_tokens * price.cache_write_5m
        + usage.cache_write_1h_input_tokens * price.cache_write_1h,
        1_000_000,
    )


@given(model_ids, usages)
def test_a_cost_is_exact_rounded_up_to_a_microdollar(model, usage):
    cost = prices.cost(model, usage)
    assert isinstance(cost, int)
    assert 0 <= cost - exact(model, usage) < 1


@given(model_ids, usages, usages)
def test_costs_of_calls_never_add_up_to_less_than_the_tokens_cost(model, one, other):
    if prices.price_of(model).long is not None:
        return  # a long prompt is billed at another price, so two short ones are not the same as one long
    both = Usage(**{name: getattr(one, name) + getattr(other, name) for name in Usage.model_fields})
    together = prices.cost(model, one) + prices.cost(model, other)
    assert 0 <= together - prices.cost(model, both) <= 1


@given(model_ids, usages)
def test_the_worst_case_covers_every_way_the_tokens_can_be_counted(model, usage):
    assert prices.worst_case(model, prompt_of(usage), usage.output_tokens) >= prices.cost(model, usage)


@given(model_ids, counts, counts, counts)
def test_a_longer_prompt_or_output_never_has_a_smaller_worst_case(model, prompt, output, more):
    assert prices.worst_case(model, prompt + more, output) >= prices.worst_case(model, prompt, output)
    assert prices.worst_case(model, prompt, output + more) >= prices.worst_case(model, prompt, output)


@pytest.mark.parametrize(
    ("model", "usage", "microusd"),
    [
        ("claude-opus-4-5", Usage(input_tokens=1_000_000), 5_000_000),
        ("claude-opus-4-5-20251101", Usage(output_tokens=1_000_000), 25_000_000),
        ("claude-sonnet-4-5", Usage(cache_read_input_tokens=100_000), 30_000),
        ("claude-sonnet-4-5", Usage(cache_write_5m_input_tokens=100_000), 375_000),
        ("claude-sonnet-4-5", Usage(cache_write_1h_input_tokens=100_000), 600_000),
        ("claude-sonnet-4-5", Usage(input_tokens=200_000), 600_000),
        ("claude-sonnet-4-5", Usage(input_tokens=200_000, cache_read_input_tokens=1), 1_200_001),
        ("claude-sonnet-4-5", Usage(input_tokens=200_000, cache_write_5m_input_tokens=1), 1_200_008),
        ("claude-sonnet-4-5", Usage(input_tokens=200_000, cache_write_1h_input_tokens=1), 1_200_012),
        ("claude-haiku-5-5", Usage(input_tokens=1), 1),
        ("claude-opus-5-5", Usage(cache_read_input_tokens=1_000_000), 200_000),
        ("scripted-1", Usage(input_tokens=1, output_tokens=1), 18),
        ("scripted-1", Usage(), 0),
    ],
)
def test_prices_equal_the_published_list(model, usage, microusd):
    assert prices.cost(model, usage) == microusd


@pytest.mark.parametrize(
    "model", ["", "claude", "claude-opus-4-5-20990101", "Claude-Opus-4-5", "gpt-5", "claude-opus"]
)
def test_an_unknown_model_is_an_error_never_a_guess(model):
    with pytest.raises(UnknownModel):
        prices.cost(model, Usage())
    with pytest.raises(UnknownModel):
        prices.worst_case(model, 1, 1)


def test_an_unknown_price_version_is_an_error():
    with pytest.raises(UnknownModel, match="1999-01-01"):
        prices.cost("scripted-1", Usage(), version="1999-01-01")
    assert prices.cost("scripted-1", Usage(input_tokens=9), version=prices.NEWEST) == prices.cost(
        "scripted-1", Usage(input_tokens=9)
    )
    assert max(prices.TABLES) == prices.NEWEST


def test_every_alias_has_a_price():
    for version, table in prices.TABLES.items():
        for alias, model in prices.ALIASES.items():
            assert alias not in table
            assert prices.price_of(alias, version=version) == table[model]


def test_negative_tokens_are_refused():
    with pytest.raises(ValueError, match="negative"):
        prices.worst_case("scripted-1", -1, 1)
    with pytest.raises(ValueError, match="greater than or equal"):
        Usage(input_tokens=-1)


def test_only_the_tables_of_prices_and_models_name_models():
    """So that there is one default model: whoever needs its name imports it."""
    modules = [
        *ROOT.glob("libs/*/src/**/*.py"),
        *ROOT.glob("services/*/src/**/*.py"),
        *ROOT.glob("cli/src/**/*.py"),
    ]
    assert len(modules) > 150
    named = {
        str(path.relative_to(ROOT))
        for path in modules
        if re.search(r"""["'](claude|scripted)-[a-z0-9-]+["']""", path.read_text(encoding="utf-8"))
    }
    folder = "libs/contracts/src/nightshift/contracts"
    assert named == {f"{folder}/prices.py", f"{folder}/models.py"}


def test_the_default_models_have_prices():
    assert cost(DEFAULT_MODEL, Usage(input_tokens=1)) > 0
    assert cost(SCRIPTED_MODEL, Usage(input_tokens=1)) > 0
