import json
import math
from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.contracts.strategies import json_values

from nightshift.contracts import canonical
from nightshift.contracts.errors import InvalidData


@given(json_values)
def test_a_value_survives_writing_and_reading(value):
    text = canonical.dumps(value)
    back = canonical.loads(text, refuse_duplicates=True)
    assert back == value
    assert repr(back) == repr(_sorted(value))  # == takes 1 for 1.0 and True for 1
    assert canonical.dumps(back) == text
    assert text.isascii()
    assert "\x00" not in text


def _sorted(value):
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, -0.0]}, '{"a":[true,null,-0.0],"b":1}'),
        ("\x00 \ud800 ä 🙂", '"\\u0000 \\ud800 \\u00e4 \\ud83d\\ude42"'),
        ([math.inf, -math.inf, 0.1], "[1e999,-1e999,0.1]"),
        ({"Infinity": 'NaN, "Infinity"', "x": math.inf}, '{"Infinity":"NaN, \\"Infinity\\"","x":1e999}'),
        (10**40, "1" + "0" * 40),
    ],
)
def test_values_have_one_canonical_text(value, text):
    assert canonical.dumps(value) == text


@given(st.text(st.characters()) | st.text(st.characters(max_codepoint=0x7F)))
@example("".join(map(chr, range(0x80))))
def test_text_writes_the_same_as_dumps(value):
    assert canonical.text(value) == canonical.dumps(value).encode()


def test_an_infinity_is_written_as_a_json_number():
    text = canonical.dumps([math.inf])
    assert json.loads(text, parse_constant=pytest.fail) == [math.inf]


@pytest.mark.parametrize("value", [math.nan, [1, math.nan, math.inf], {"a": math.nan}])
def test_nan_is_refused(value):
    with pytest.raises(InvalidData, match="NaN"):
        canonical.dumps(value)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {"a": {1, 2}},
        b"bytes",
        [10**5000],
        {"at": datetime.fromisoformat("0001-01-01T00:00:00+14:00")},
        {"at": datetime.fromisoformat("9999-12-31T23:59:59-14:00")},
    ],
    ids=["object", "set", "bytes", "int", "before the calendar", "after the calendar"],
)
def test_a_value_that_is_not_json_is_refused(value):
    with pytest.raises(InvalidData):
        canonical.dumps(value)


def test_nesting_that_is_too_deep_is_refused():
    value: list = []
    value.append(value)
    with pytest.raises(InvalidData, match="deep"):
        canonical.dumps(value)
    with pytest.raises(InvalidData, match="deep"):
        canonical.loads("[" * 100_000)


@pytest.mark.parametrize(
    "text",
    ["NaN", "[Infinity]", "-Infinity", "", "{", '{"a":1}x', "1" * 5000, b"\xff", b'"\xed\xa0\x80"', "'a'"],
)
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(InvalidData):
        canonical.loads(text)


def test_duplicate_names_are_refused_when_requested():
    text = '{"x":{"a":1,"b":2,"a":3}}'
    assert canonical.loads(text) == {"x": {"a": 3, "b": 2}}
    with pytest.raises(InvalidData) as caught:
        canonical.loads(text, refuse_duplicates=True)
    assert caught.value.field == "a"


def test_numbers_beyond_a_double_stay_infinite():
    assert canonical.dumps(canonical.loads('{"a":1e400,"b":-1e400}')) == '{"a":1e999,"b":-1e999}'
