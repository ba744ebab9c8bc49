"""What a message from outside may weigh, checked in one pass over the bytes before anything parses them."""

import re
from dataclasses import dataclass
from typing import Final

from nightshift.contracts.errors import InvalidData, TooLarge


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on a request: bytes of the value, levels of nesting, bytes of a name, characters of a number.

    The value's limit also holds for its canonical text, so that the event made of it fits into a Kafka message of
    1 MiB, the broker's default.
    """

    value: int = 900_000
    depth: int = 64
    name: int = 256
    number: int = 64
    key: int = 128
    header: int = 4096


LIMITS: Final = Limits()

# The last alternative meets a quote that opens a string without an end. Without it the search would begin again at
# every escaped quote behind it: quadratic time, for anyone who sends such a text.
_TOKEN = re.compile(
    rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?|([\[{])|([\]}])|(-?[0-9][-+.0-9eE]*+)|(")', re.DOTALL
)


def check_value(value: bytes, limits: Limits = LIMITS) -> None:
    """Raises TooLarge when the JSON text is over a limit, InvalidData when it has a string without an end."""
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
