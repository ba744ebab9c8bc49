"""The principal of a request, and the signature that proves it."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace

import pytest
from tests.unit.contracts.messages import REQUEST

from nightshift.contracts.cloudevents import decode_request, encode_request
from nightshift.contracts.envelope import Message
from nightshift.contracts.errors import InvalidEnvelope, NotSigned
from nightshift.contracts.principals import OPERATOR, RequestKeys, of_account

SECRET = "a secret of thirty-two characters"
KEYS = RequestKeys.parse(
    json.dumps(
        {
            "keys": {
                "shop": {"secret": SECRET, "principals": ["account/acme"]},
                "web": {"secret": SECRET[::-1], "principals": ["operator", "account/*"]},
            }
        }
    ).encode()
)


def message(
    principal: str | None = "account/acme", key: tuple[str, str] | None = ("shop", SECRET)
) -> Message:
    return encode_request(REQUEST, id="r\u00e9", source="/acme", principal=principal, key=key)


def verify(sent: Message) -> None:
    received = decode_request(sent.key, sent.headers, sent.value)
    KEYS.verify(received.envelope, sent.headers, sent.value)


def test_a_signed_request_is_verified():
    verify(message())
    for principal in (OPERATOR, of_account("acme"), of_account("other")):
        verify(message(principal, ("web", SECRET[::-1])))


def test_the_signature_is_what_the_documentation_says():
    sent = message()
    headers = dict(sent.headers)
    lines = [
        b"nightshift-request-v1",
        *(headers[f"ce_{name}"] for name in ("id", "source", "type", "subject")),
    ]
    body = b"\n".join([*lines, headers["ce_principal"], sent.value])
    expected = base64.b64encode(hmac.new(SECRET.encode(), body, hashlib.sha256).digest())
    assert headers["nightshift_signature"] == b"shop:" + expected


@pytest.mark.parametrize("name", ["ce_id", "ce_source", "ce_principal", "nightshift_signature"])
def test_a_header_that_was_changed_is_noticed(name):
    sent = message(OPERATOR, ("web", SECRET[::-1]))
    changed = {"ce_principal": b"account/other", "nightshift_signature": b"shop:" + b"A" * 43 + b"="}
    headers = tuple((one, changed.get(one, b"x") if one == name else value) for one, value in sent.headers)
    with pytest.raises(NotSigned):
        verify(replace(sent, headers=headers))


def test_a_body_that_was_changed_is_noticed():
    sent = message()
    with pytest.raises(NotSigned):
        verify(replace(sent, value=sent.value.replace(b"habit", b"other")))


@pytest.mark.parametrize(
    ("principal", "key"),
    [
        (None, None),
        ("account/acme", None),
        (None, ("shop", SECRET)),
        (OPERATOR, ("shop", SECRET)),
        ("account/other", ("shop", SECRET)),
        ("account/acme", ("shop", SECRET + "x")),
        ("account/acme", ("unknown", SECRET)),
    ],
)
def test_a_request_that_no_key_covers_is_refused(principal, key):
    with pytest.raises(NotSigned):
        verify(message(principal, key))


def test_a_structured_request_is_signed_over_the_whole_record():
    document = {
        **{
            "specversion": "1.0",
            "id": "1",
            "source": "/acme",
            "subject": "night-7",
            "principal": "account/acme",
        },
        "type": "nightshift.requests.build_requested.v1",
        "data": json.loads(message().value),
    }
    value = json.dumps(document).encode()
    lines = [b"nightshift-request-v1", b"1", b"/acme", document["type"].encode(), b"night-7", b"account/acme"]
    digest = hmac.new(SECRET.encode(), b"\n".join([*lines, value]), hashlib.sha256).digest()
    headers = (
        ("content-type", b"application/cloudevents+json"),
        ("nightshift_signature", b"shop:" + base64.b64encode(digest)),
    )
    verify(Message(b"night-7", headers, value))
    with pytest.raises(NotSigned):
        verify(Message(b"night-7", headers, value + b" "))


@pytest.mark.parametrize("principal", ["", "acme", "account/", "account/*", "operator ", "account/a/b"])
def test_a_principal_has_one_of_two_forms(principal):
    sent = message(principal, None)
    with pytest.raises(InvalidEnvelope, match="ce_principal"):
        decode_request(sent.key, sent.headers, sent.value)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b'{"keys": {"a": {"secret": "hush-hush", "principals": ["operator"]}}}']
)
def test_a_wrong_key_file_is_refused_without_its_secrets(text):
    with pytest.raises(ValueError, match=r".") as caught:
        RequestKeys.parse(text)
    assert "hush" not in str(caught.value)
