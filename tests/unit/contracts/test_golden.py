import hashlib
import json
from pathlib import Path

import jsonschema
import pytest

from nightshift.contracts import canonical
from nightshift.contracts.cloudevents import decode_fact, decode_request
from nightshift.contracts.generate import HISTORY
from nightshift.contracts.model import Owner
from nightshift.contracts.registry import CATALOGUE, encode, parse_wire_name, wire_name
from nightshift.contracts.schemas import consumer_schema, producer_schema

FOLDER = Path(__file__).parents[3] / "libs/contracts/golden"
FILES = sorted(FOLDER.glob("*.json"))
HOW = "golden files are only ever added: see libs/contracts/README.md"


def test_every_type_and_version_has_its_golden_file():
    assert {path.stem for path in FILES} == {wire_name(*key) for key in CATALOGUE.models}, HOW


def test_no_golden_file_was_changed_or_removed():
    listed = dict(reversed(line.split("  ")) for line in (FOLDER / "DIGESTS").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FILES}
    assert found == listed, HOW


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_message_decodes_and_encodes_the_same(path):
    text = path.read_text(encoding="utf-8")
    golden = canonical.loads(text)
    data = canonical.dumps(golden["data"])
    type_, version = parse_wire_name(path.stem)
    model = CATALOGUE.model(type_)
    headers = [(name, value.encode()) for name, value in golden["headers"].items()]
    decode = decode_request if model.owner is Owner.OUTSIDE else decode_fact
    message_value = json.dumps(golden["data"]).encode() if "1e999" not in data else data.encode()
    received = decode(golden["key"].encode(), headers, message_value)
    assert received.envelope.type == path.stem
    assert isinstance(received.event, model)
    if version == model.version:
        assert encode(received.event) == data
        assert f'"data": {data}\n' in text
        assert set(golden["data"]) == set(model.model_fields), "a golden file shows every field"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_message_fits_its_schemas(path):
    type_, version = parse_wire_name(path.stem)
    model = CATALOGUE.model(type_)
    if version != model.version:
        pytest.skip("the schema of an older version is a file, checked when it was the newest")
    data = canonical.loads(path.read_text(encoding="utf-8"))["data"]
    check = jsonschema.Draft202012Validator
    check(consumer_schema(model)).validate({**data, "zzz_new": 1})
    check(producer_schema(model)).validate(data)
    if model.owner is Owner.OUTSIDE:
        with pytest.raises(jsonschema.ValidationError):
            check(producer_schema(model)).validate({**data, "zzz_new": 1})


def test_the_history_holds_a_release():
    root = Path(__file__).parents[3]
    assert list((root / HISTORY).glob("*.json"))
