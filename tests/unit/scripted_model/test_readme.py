"""The example in the README is a scenario."""

import re
from pathlib import Path

from nightshift.devstack.model.scenario import Match, Turn, parse_scenario

README = Path(__file__).parents[3] / "libs" / "devstack" / "README.md"


def test_the_example_can_be_read() -> None:
    (example,) = re.findall(r"```yaml\n(.+?)```", README.read_text(), re.DOTALL)
    scenario = parse_scenario(example)
    assert [turn.positions for turn in scenario.positioned()] == [
        range(0, 1),
        range(1, 2),
        range(1, 2),
        range(2, 3),
        range(3, 4),
    ]


def test_every_field_is_told() -> None:
    text = README.read_text()
    fields = {*Match.model_fields, *Turn.model_fields} - {"name", "match"}
    assert {field for field in fields if f"`{field}" not in text and f"{field}:" not in text} == set()
