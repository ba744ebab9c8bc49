"""One JSON text per value: sorted keys, ASCII only, no spaces. The same bytes for the log, the digest and the request.

ASCII, so that NUL bytes and lone surrogates live in a text column; an infinite float is written as a number that
reads back as infinite, because models and tools do write 1e400.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, NoReturn
from uuid import UUID

from pydantic_core import to_json

from nightshift.contracts.errors import InvalidData

_STRING_OR_INFINITY = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|Infinity')


def dumps(value: Any) -> str:
    """The canonical text of a JSON value. Dates, UUIDs and enums of our models are written as their text.

    Raises InvalidData for NaN (it has no JSON), for what is not JSON, and for a nesting beyond the interpreter's.
    """
    try:
        try:
            return _FINITE(value)
        except ValueError:  # not finite, most likely: rare, so looked at only now
            return _with_infinities(value)
    except InvalidData:
        raise
    except ValueError as error:
        raise InvalidData(f"not a JSON value: {error}") from None
    except TypeError as error:
        raise InvalidData(f"not a JSON value: {error}") from None
    except RecursionError:
        raise InvalidData("nested too deeply") from None


def text(value: str) -> bytes:
    """The canonical text of a string, as `dumps` writes it, in bytes.

    What is ASCII is escaped by pydantic's writer in half the time or less. It leaves DEL as it is, which is the one
    difference.
    """
    if value.isascii() and "\x7f" not in value:
        return to_json(value)
    return json.encoder.encode_basestring_ascii(value).encode()


def loads(text: str | bytes, *, refuse_duplicates: bool = False) -> Any:
    """The value of a JSON text. The words NaN and Infinity are refused; with `refuse_duplicates`, a name given twice.

    Raises InvalidData.
    """
    decoder = _STRICT if refuse_duplicates else _LENIENT
    try:
        if isinstance(text, bytes):
            text = text.decode()
        return decoder.decode(text)
    except InvalidData:
        raise
    except UnicodeDecodeError as error:
        raise InvalidData(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise InvalidData(f"not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:
        raise InvalidData("a number has too many digits") from None
    except RecursionError:
        raise InvalidData("nested too deeply") from None


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError("a time without its zone")
        try:
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        except OverflowError:
            raise TypeError("a time beyond the calendar in UTC") from None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def _encoder(*, allow_nan: bool) -> Callable[[Any], str]:
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without it
        return json.JSONEncoder(
            ensure_ascii=True,
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=allow_nan,
            check_circular=False,
            default=_plain,
        ).encode
    # What JSONEncoder makes anew for every value: a fifth of the time of a small event.
    chunks = make(None, _plain, json.encoder.encode_basestring_ascii, None, ":", ",", True, False, allow_nan)
    return lambda value: "".join(chunks(value, 0))


_FINITE = _encoder(allow_nan=False)
_NON_FINITE = _encoder(allow_nan=True)


def _with_infinities(value: Any) -> str:
    text = _NON_FINITE(value)
    if "NaN" in _STRING_OR_INFINITY.sub("", text):
        raise InvalidData("NaN has no JSON")
    return _STRING_OR_INFINITY.sub(lambda found: "1e999" if found[0] == "Infinity" else found[0], text)


def _no_constant(word: str) -> NoReturn:
    raise InvalidData(f"not JSON: {word} is no number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidData("the same name twice in one object", field=name[:128])
        seen.add(name)
    raise AssertionError("unreachable: some name was there twice")


_LENIENT = json.JSONDecoder(parse_constant=_no_constant)
_STRICT = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
