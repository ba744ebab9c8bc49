"""The limits of a message from outside. They are checked in one pass over its bytes, before anything parses them."""

import re
from typing import Final

from nightshift.contracts.errors import InvalidData, TooLarge

#: The largest value in bytes. The canonical text has the same limit, so that the event that follows from it fits into a
#: Kafka message of 1 MiB, the default of brokers.
VALUE: Final = 900_000
#: The largest key, and the largest header with its name, in bytes.
KEY, HEADER = 128, 4096
#: The most levels of nesting, bytes in an object's name, and characters of a number.
DEPTH, NAME, NUMBER = 64, 256, 64

# The last alternative matches the opening quote of a string without an end. Without it the search would restart at
# every escaped quote behind it, which takes quadratic time.
_TOKEN = re.compile(
    rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?|([\[{])|([\]}])|(-?[0-9][-+.0-9eE]*+)|(")', re.DOTALL
)


def check_value(value: bytes) -> None:
    """Raises TooLarge when the JSON text exceeds a limit of size, depth or length. Raises InvalidData when a string
    has no end.
    """
    if len(value) > VALUE:
        raise TooLarge(f"the value has {len(value)} bytes, {VALUE} are allowed", limit="value")
    depth = 0
    for token in _TOKEN.finditer(value):
        match token.lastindex:
            case 2 if token.end(1) - token.start(1) - 2 > NAME:
                raise TooLarge(f"a name in an object has over {NAME} bytes", limit="name")
            case 3:
                depth += 1
                if depth > DEPTH:
                    raise TooLarge(f"nested over {DEPTH} levels deep", limit="depth")
            case 4:
                depth -= 1
            case 5 if token.end() - token.start() > NUMBER:
                raise TooLarge(f"a number has over {NUMBER} characters", limit="number")
            case 6:
                raise InvalidData("not JSON: a string without an end")
            case _:
                pass
