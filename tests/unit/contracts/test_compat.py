import copy
import json
from pathlib import Path

import pytest
from tests.support import schema_compat as compat

from nightshift.contracts.generate import HISTORY, release_bundle
from nightshift.contracts.model import Owner
from nightshift.contracts.registry import CATALOGUE, parse_wire_name

BUNDLES = sorted((Path(__file__).parents[3] / HISTORY).glob("*.json"))
NOW = json.loads(release_bundle())
HOW = (
    "a change that others cannot read needs a new version of the type and an upcast (before the first release:"
    " `python -m nightshift.contracts.generate --release 0.1.0`): see libs/contracts/README.md"
)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.stem)
def test_every_shape_ever_released_is_compatible_with_today(bundle):
    reasons = []
    for name, old in json.loads(bundle.read_text(encoding="utf-8")).items():
        if name not in NOW:
            continue  # superseded by a newer version: its upcast and golden file are tested elsewhere
        check = (
            compat.backward
            if CATALOGUE.model(parse_wire_name(name)[0]).owner is Owner.OUTSIDE
            else compat.full
        )
        reasons += [f"{name}: {reason}" for reason in check(old, NOW[name])]
    assert reasons == [], HOW


@pytest.mark.parametrize("name", NOW)
def test_every_schema_is_compatible_with_itself(name):
    assert compat.full(NOW[name], NOW[name]) == []


BASE = {
    "type": "object",
    "properties": {
        "turn": {"type": "integer", "minimum": 0},
        "reason": {"enum": ["a", "b"], "type": "string"},
        "note": {"anyOf": [{"type": "string", "maxLength": 10}, {"type": "null"}]},
        "parts": {"type": "array", "maxItems": 5, "items": {"$ref": "#/$defs/Part"}},
        "id": {"type": "string", "pattern": "^a$"},
        "one": {"const": "x", "type": "string"},
        "free": {"type": "object", "additionalProperties": True},
    },
    "required": ["turn", "reason"],
    "$defs": {
        "Part": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}


def changed(change):
    new = copy.deepcopy(BASE)
    change(new, new["properties"])
    return new


def add_optional(schema, fields):
    fields["more"] = {"type": "string"}


def add_required(schema, fields):
    fields["more"] = {"type": "string"}
    schema["required"].append("more")


def remove_optional(schema, fields):
    del fields["note"]


def remove_required(schema, fields):
    del fields["turn"]
    schema["required"].remove("turn")


def require(schema, fields):
    schema["required"].append("id")


def no_longer_require(schema, fields):
    schema["required"].remove("turn")


def change_type(schema, fields):
    fields["turn"] = {"type": "string"}


def widen_number(schema, fields):
    fields["turn"] = {"type": "number", "minimum": 0}


def add_value(schema, fields):
    fields["reason"]["enum"].append("c")


def remove_value(schema, fields):
    fields["reason"]["enum"] = ["a"]


def free_value(schema, fields):
    fields["reason"] = {"type": "string"}


def raise_minimum(schema, fields):
    fields["turn"]["minimum"] = 1


def lower_maximum(schema, fields):
    fields["parts"]["maxItems"] = 4


def drop_maximum(schema, fields):
    del fields["parts"]["maxItems"]


def drop_null(schema, fields):
    fields["note"] = {"type": "string", "maxLength": 10}


def shorten(schema, fields):
    fields["note"]["anyOf"][0]["maxLength"] = 5


def change_pattern(schema, fields):
    fields["id"]["pattern"] = "^b$"


def change_constant(schema, fields):
    fields["one"]["const"] = "y"


def deep_required(schema, fields):
    schema["$defs"]["Part"]["properties"]["size"] = {"type": "integer"}
    schema["$defs"]["Part"]["required"].append("size")


def deep_type(schema, fields):
    schema["$defs"]["Part"]["properties"]["name"] = {"type": "integer"}


def close(schema, fields):
    schema["additionalProperties"] = False


def narrow_free(schema, fields):
    fields["free"] = {"type": "object", "additionalProperties": {"type": "string"}}


def describe(schema, fields):
    schema["description"] = "words"
    fields["turn"]["x-nightshift-sealed"] = True


#: change → (new code reads old data, old code reads new data)
CHANGES = {
    add_optional: (True, True),
    describe: (True, True),
    close: (True, True),
    remove_optional: (True, True),
    add_required: (False, True),
    remove_required: (True, False),
    require: (False, True),
    no_longer_require: (True, False),
    change_type: (False, False),
    widen_number: (True, False),
    add_value: (True, False),
    remove_value: (False, True),
    free_value: (True, False),
    raise_minimum: (False, True),
    lower_maximum: (False, True),
    drop_maximum: (True, False),
    drop_null: (False, True),
    shorten: (False, True),
    change_pattern: (False, False),
    change_constant: (False, False),
    deep_required: (False, True),
    deep_type: (False, False),
    narrow_free: (False, True),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_checked_in_both_directions(change):
    new = changed(change)
    backward, forward = CHANGES[change]
    assert (compat.breaks(reader=new, writer=BASE) == []) is backward
    assert (compat.breaks(reader=BASE, writer=new) == []) is forward
    assert (compat.full(BASE, new) == []) is (backward and forward)
    assert (compat.backward(BASE, new) == []) is backward


def test_a_closed_reader_refuses_an_added_field():
    closed, wider = changed(close), changed(add_optional)
    assert any("data.more" in reason for reason in compat.full(closed, wider))


def test_harmless_steps_are_checked_as_one_change():
    without = changed(remove_optional)
    back = copy.deepcopy(without)
    back["properties"]["note"] = {"type": "integer"}
    assert compat.full(BASE, without) == []
    assert compat.full(without, back) == []
    assert compat.full(BASE, back) != []


@pytest.mark.parametrize(
    ("name", "break_it"),
    [
        ("nightshift.build.checkpoint_saved.v1", lambda schema: schema["required"].clear()),
        ("nightshift.build.agent_steered.v1", lambda schema: schema["properties"]["reason"]["enum"].append("new")),
        ("nightshift.build.tool_call_requested.v1", lambda schema: schema["$defs"]["BlobRef"]["properties"].pop("ref")),
        ("nightshift.sandbox.tool_call_completed.v1", lambda schema: schema["properties"].pop("output")),
    ],
)  # fmt: skip
def test_a_breaking_change_of_a_real_fact_is_caught(name, break_it):
    new = copy.deepcopy(NOW[name])
    break_it(new)
    assert compat.full(NOW[name], new) != []
