"""The errors of encoding and decoding. All are refusals: the same bytes always raise the same error.

ContractError
├── UnknownType      no event type has this name
├── UnknownVersion   the event type exists, this version of it does not (perhaps a newer release wrote it)
├── InvalidData      the data is not JSON, or does not fit the event's model; `field` names the place
├── InvalidEnvelope  a header, the key or the value is wrong; `header` names it
├── TooLarge         a limit of size, depth or length is exceeded; `limit` names it
├── NotSigned        a request lacks the signature that this installation demands
└── UnknownModel     the AI model has no price
"""


class ContractError(ValueError):
    """The base class of these errors. The message never contains a value of the data, because that may be a person's
    text.
    """


class UnknownType(ContractError):
    """No event type has this name."""


class UnknownVersion(ContractError):
    """The event type exists, but this version of it is unknown."""


class InvalidData(ContractError):
    """The data does not fit the event's model.

    `field` is the dotted path of the first wrong field, or "" for the data as a whole.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class InvalidEnvelope(ContractError):
    """The envelope of a message is wrong. `header` names the header or attribute, or is `key` or `value`."""

    def __init__(self, message: str, *, header: str) -> None:
        super().__init__(f"{header}: {message}")
        self.header = header


class TooLarge(ContractError):
    """A message exceeds a limit. `limit` names it: value, depth, name, number, key or header."""

    def __init__(self, message: str, *, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


class NotSigned(ContractError):
    """The request is not signed by a key of the installation, or its key may not state the request's principal."""


class UnknownModel(ContractError):
    """The AI model has no price: the price table lacks it, or no table has this version."""
