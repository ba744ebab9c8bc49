"""The principal of a request, and the signature that proves it. The sender states both in headers.

A principal is `operator`, who may request anything, or `account/<id>`, who may request what belongs to that account.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from nightshift.contracts import topics
from nightshift.contracts.envelope import Envelope, Headers, Message
from nightshift.contracts.errors import InvalidEnvelope, NotSigned

OPERATOR: Final = "operator"

_ACCOUNT: Final = "account/"
_PRINCIPAL = re.compile(r"operator|account/[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION: Final = b"nightshift-request-v1"


def of_account(account_id: str) -> str:
    """Returns the principal of an account."""
    return f"{_ACCOUNT}{account_id}"


def checked_principal(text: str, *, header: str) -> str:
    """Returns the principal. Raises InvalidEnvelope for a text that is no principal."""
    if _PRINCIPAL.fullmatch(text) is None:
        raise InvalidEnvelope("must be `operator` or `account/<id>`", header=header)
    return text


class RequestKey(BaseModel):
    """A key with which a producer signs requests. `principals` are the ones that the producer may state.

    `account/*` means every account.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: Annotated[SecretStr, Field(min_length=32)]
    principals: Annotated[tuple[str, ...], Field(min_length=1)]

    def may_state(self, principal: str) -> bool:
        return principal in self.principals or (
            principal.startswith(_ACCOUNT) and f"{_ACCOUNT}*" in self.principals
        )


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")], RequestKey]


@dataclass(frozen=True, slots=True)
class RequestKeys:
    """The keys of an installation by their ids. If an installation has keys, every request must be signed."""

    keys: Mapping[str, RequestKey]

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Read JSON: `{"keys": {"<key id>": {"secret": "…", "principals": ["account/acme"]}}}`.

        Raises ValueError for other JSON. The error never quotes a value of the text.
        """
        try:
            return cls(_KeyFile.model_validate_json(text).keys)
        except ValidationError as error:
            wrong = error.errors(include_input=False, include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from None

    def verify(self, envelope: Envelope, headers: Headers, value: bytes) -> None:
        """Checks that a request is signed. Raises NotSigned when the signature or the principal is missing, when the
        signature is wrong, or when its key may not state this principal.
        """
        found = dict(headers).get(topics.SIGNATURE)
        if found is None or envelope.principal is None:
            raise NotSigned(f"a request needs the headers {topics.PRINCIPAL} and {topics.SIGNATURE}")
        key_id, _, signature = found.decode("ascii", "replace").partition(":")
        key = self.keys.get(key_id)
        if key is None or not hmac.compare_digest(
            signature, _signature(key.secret.get_secret_value(), envelope, value)
        ):
            raise NotSigned("the signature is not that of a known key")
        if not key.may_state(envelope.principal):
            raise NotSigned(f"the key {key_id} may not state the principal {envelope.principal}")


def signed(message: Message, envelope: Envelope, *, key_id: str, secret: str) -> Message:
    """Returns the message with one more header: the signature made with this key. `envelope` is the decoded envelope of
    the message.
    """
    signature = f"{key_id}:{_signature(secret, envelope, message.value)}"
    return replace(message, headers=(*message.headers, (topics.SIGNATURE, signature.encode())))


def _signature(secret: str, envelope: Envelope, value: bytes) -> str:
    """Returns the signature: HMAC-SHA256 in base64 over the version, five attributes and the value, separated by
    newlines.

    Raises NotSigned when an attribute has a line break, because another text could then have the same signature.
    """
    attributes = (envelope.id, envelope.source, envelope.type, envelope.subject, envelope.principal or "")
    if any("\n" in one for one in attributes):
        raise NotSigned("an attribute of a signed request has a line break")
    body = b"\n".join([_VERSION, *(one.encode() for one in attributes), value])
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()
