"""The errors of decoding and encoding. All are refusals: decoding the same bytes again raises the same error.

ContractError
├── UnknownType      no event of this name is in the catalogue
├── UnknownVersion   the event is known, this version of it is not (perhaps written by a newer release)
├── InvalidData      the data does not fit its model, or is not JSON; `field` names the place
├── InvalidEnvelope  a header, the key or the value is wrong; `header` names it
├── TooLarge         over a limit of size, depth or length; `limit` names it
├── NotSigned        a request without the signature that this installation demands
└── UnknownModel     a model without a price
"""


class ContractError(ValueError):
    """The base class. The message never holds a value from the data, which may be a person's text."""


class UnknownType(ContractError):
    """No event of this name is in the catalogue."""


class UnknownVersion(ContractError):
    """The event is known, this version of it is not."""


class InvalidData(ContractError):
    """The data does not fit its model. `field` is the dotted path of the first wrong field, "" for the whole data."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class InvalidEnvelope(ContractError):
    """The envelope is wrong. `header` is the name of a header or of an attribute, or `key` or `value`."""

    def __init__(self, message: str, *, header: str) -> None:
        super().__init__(f"{header}: {message}")
        self.header = header


class TooLarge(ContractError):
    """The message exceeds a limit. `limit` names it: value, depth, name, number, key or header."""

    def __init__(self, message: str, *, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


class NotSigned(ContractError):
    """No key of the installation signed the request, or the key may not state the principal of the request."""


class UnknownModel(ContractError):
    """No price table has this version, or the table has no price for this model."""
