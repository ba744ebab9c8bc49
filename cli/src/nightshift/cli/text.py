"""Formats amounts and texts for a person."""

from nightshift.contracts.model import BlobRef

_WIDTH = 88
#: The most characters that are shown of a text of an agent or a person.
_LONGEST = 480


def dollars(microdollars: int) -> str:
    """Returns an amount as text, such as `$0.0123`.

    It has four digits, because one call may cost fractions of a cent.
    """
    return f"${microdollars / 1_000_000:,.4f}"


def text_of(value: str | BlobRef) -> str:
    """Returns the text. For a text that is in the object store, returns its size and digest instead."""
    return value if isinstance(value, str) else f"[{value.bytes:,} bytes, {value.ref[:19]}…]"


def short(text: str, width: int = _WIDTH) -> str:
    """Returns the first line of a text, cut to `width` characters."""
    first = text.strip().partition("\n")[0]
    return first if len(first) <= width else first[: width - 1] + "…"


def visible(text: str) -> str:
    r"""Returns the text with each invisible character, such as one that reverses text, written as `\u202e`."""
    return "".join(one if one in "\n\t" or one.isprintable() else f"\\u{ord(one):04x}" for one in text)


def joined(text: str) -> str:
    """Returns a text of several lines as one line, cut to 480 characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"
