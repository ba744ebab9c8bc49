"""What can be wrong with a message or an event. All are refusals: decoding the same bytes again gives the same.

ContractError
├── UnknownType      no event of this name is in the catalogue
├── UnknownVersion   the event is known, this version of it is not (perhaps written by a newer release)
├── InvalidData      the data does not fit its model, or is not JSON; `field` names the place
├── InvalidEnvelope  the message around the data is wrong; `header` names the place
├── TooLarge         over a limit of size, depth or length; `limit` names it
└── UnknownModel     a model without a price
"""


class ContractError(ValueError):
    """The root. The message never holds a value from the data: that may be a person's text."""


class UnknownType(ContractError):
    """No event of this name is in the catalogue."""


class UnknownVersion(ContractError):
    """The event is known, this version of it is not."""


class InvalidData(ContractError):
    """The data does not fit. `field` is the dotted path of the first wrong field, "" for the data as a whole."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class InvalidEnvelope(ContractError):
    """The envelope is wrong. `header` is a header's name, `key`, `value`, or an attribute's name in structured mode."""

    def __init__(self, message: str, *, header: str) -> None:
        super().__init__(f"{header}: {message}")
        self.header = header


class TooLarge(ContractError):
    """Over a limit that is checked before parsing. `limit` names it: value, depth, name, number, key, header."""

    def __init__(self, message: str, *, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


class UnknownModel(ContractError):
    """This model, or this version of the price table, has no price. It is never guessed."""
