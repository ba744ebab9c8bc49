"""The limits on a message from outside, checked in one pass over its bytes before anything parses them."""

import re
from dataclasses import dataclass
from typing import Final

from nightshift.contracts.errors import InvalidData, TooLarge


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits on a request: bytes of the value, levels of nesting, bytes of a name, characters of a number.

    The limit of the value applies to its canonical text too, so that the resulting event fits into a Kafka message of
    1 MiB, the default of brokers.
    """

    value: int = 900_000
    depth: int = 64
    name: int = 256
    number: int = 64
    key: int = 128
    header: int = 4096


LIMITS: Final = RequestLimits()

# The last alternative matches a quote that opens a string without an end. Without it the search would restart at every
# escaped quote behind it, which takes quadratic time.
_TOKEN = re.compile(
    rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?|([\[{])|([\]}])|(-?[0-9][-+.0-9eE]*+)|(")', re.DOTALL
)


def check_value(value: bytes, limits: RequestLimits = LIMITS) -> None:
    """Raises TooLarge when the JSON text exceeds a limit, InvalidData when a string has no end."""
    if len(value) > limits.value:
        raise TooLarge(f"the value has {len(value)} bytes, {limits.value} are allowed", limit="value")
    depth = 0
    for token in _TOKEN.finditer(value):
        match token.lastindex:
            case 2 if token.end(1) - token.start(1) - 2 > limits.name:
                raise TooLarge(f"a name in an object has over {limits.name} bytes", limit="name")
            case 3:
                depth += 1
                if depth > limits.depth:
                    raise TooLarge(f"nested over {limits.depth} levels deep", limit="depth")
            case 4:
                depth -= 1
            case 5 if token.end() - token.start() > limits.number:
                raise TooLarge(f"a number has over {limits.number} characters", limit="number")
            case 6:
                raise InvalidData("not JSON: a string without an end")
            case _:
                pass
