"""What of an output is shown: no control codes, no secrets in any form, not too much."""

import base64
import json
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightshift.sandbox_gateway.domain.text import LIMIT, Mask, cut, escaped, printable

SEQUENCES = {
    "\x1b[31mred\x1b[0m": "red",
    "\x1b[1;38;5;196mred\x1b[m": "red",
    "\x1b]0;title\x07text": "text",
    "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\": "link",
    "\x1b]52;c;Y2xpcGJvYXJk\x07x": "x",
    "\x1bPq#0;2;0;0;0\x1b\\sixel": "sixel",
    "\x1b_apc\x1b\\x": "x",
    "\x1b^pm\x1b\\x": "x",
    "\x1b[2J\x1b[Hcleared": "cleared",
    "\x9b31mred": "red",
    "\x9d0;title\x9cx": "x",
    "\x1b(Bx": "x",
    "\x1b=x\x1b>": "x",
    "\x1b[31m10%\x1b[K\r\x1b[32m100%\x1b[0m": "100%",
    "long text\r\x1b[Kok": "ok",
    "long text\r\x1b[2Kok": "ok",
    "long text\x1b[2K\x1b[1Gok": "ok",
    "Downloading\rDone": "Doneloading",
    "N\bNA\bAM\bME\bE": "NAME",
    "_\bu_\bn": "un",
    "10%\r50%\r100%\ndone": "100%\ndone",
    "line\r\nnext": "line\nnext",
    "bell\x07 back\x08space": "bell backspace",
    "\u202eabc\u202c": "abc",
    "a\u2066b\u2069": "ab",
    "tag\U000e0041\U000e0042": "tag",
    "tab\tkept\n": "tab\tkept\n",
    "nul\x00\x85c1": "nul\\x85c1",
}


def test_sequences_are_gone_and_their_text_stays() -> None:
    assert {raw: printable(raw) for raw in SEQUENCES} == SEQUENCES


NO_SEQUENCES = [
    "Ã\x9bFAILED test_x",
    "\x9dFAILED test_x\nnext\x07",
    "\x90FAILED\x9d test_x",
    "\x98\x9e\x9fFAILED test_x",
    "\x1b]0;title\nFAILED test_x\n\x07",
    "\x1bPFAILED test_x",
    "\x1b_FAILED test_x",
    "\x1bFAILED test_x",
    "\x1b(FAILED test_x",
    "\x1b FAILED test_x",
    "\x1b[31 FAILED test_x",
    "\x1b[3\nFAILED test_x",
    "\x1b]8;;\x1b[0mFAILED test_x",
    "\x0e\x7fFAILED test_x",
    "FAILED test_x\x1b",
    "FAILED test_x\x1b[",
    "FAILED test_x\r",
    "FAILED test_x\r\n",
    "FAILED test_x\b\b",
]


def test_text_outside_complete_sequences_stays_visible() -> None:
    for raw in NO_SEQUENCES:
        assert "FAILED" in printable(raw), raw
        assert "test_x" in printable(raw), raw
        assert "FAILED test_x" in escaped(raw).replace("\\x9d", ""), raw
    assert printable("Ã\x9d FAILED") == "Ã\\x9d FAILED"
    assert escaped("a\r\x1b[0m\u202e\U000e0041") == "a\\r\\x1b[0m\\u202e\\U000e0041"


@pytest.mark.timeout(20)
def test_long_progress_output_is_cleaned_in_linear_time() -> None:
    bar = "x" * 1_000_000 + "\r" * 10 + "\x1b[2K\rab" * 300_000
    assert printable(bar) == "ab"
    assert len(printable("\x1b]" * 200_000)) == 1_000_000
    assert len(printable("\x1b[" * 200_000)) == 1_000_000


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_control_characters_except_newline_and_tab_are_removed(raw: bytes | str) -> None:
    shown = printable(raw)
    assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]
    shown.encode()
    assert printable(shown) == shown


secrets = st.text(string.ascii_letters + string.digits + "+/=&%_-. \"\\'é", min_size=8, max_size=40).filter(
    lambda s: s.strip() == s and len(set(s)) > 4
)


@given(secrets, st.binary(max_size=10), st.binary(max_size=10), st.text("xyz ", max_size=5))
def test_a_secret_is_seen_in_no_form(secret: str, before: bytes, after: bytes, around: str) -> None:
    raw = secret.encode()
    forms = [
        secret,
        json.dumps(secret),
        quote(secret, safe=""),
        raw.hex(),
        secret[::-1],
        base64.b64encode(before + raw + after).decode(),
        base64.urlsafe_b64encode(before + raw + after).decode(),
    ]
    mask = Mask({"TOKEN": (secret,)})
    for form in forms:
        shown = mask(around + form + around)
        assert "[secret TOKEN]" in shown, form
        assert secret not in shown
        for word in shown.replace("[secret TOKEN]", " ").split():
            assert raw not in _decoded(word)


def _decoded(word: str) -> bytes:
    try:
        return base64.b64decode(word + "=" * (-len(word) % 4))
    except ValueError:
        return b""


def test_the_longer_of_two_secrets_is_masked_and_short_ones_are_not() -> None:
    mask = Mask({"A": ("secret",), "B": ("secret-and-more",), "C": ("on",)})
    assert mask("secret-and-more secret on") == "[secret B] [secret A] on"
    assert Mask({})("as it was") == "as it was"


@given(st.text(max_size=200), st.integers(20, 100))
def test_cut_text_keeps_both_ends_and_the_limit(text: str, limit: int) -> None:
    short = cut(text, limit=limit, where="key")
    if not short.truncated:
        assert short.text == text
        assert len(text.encode("utf-8", "surrogatepass")) <= limit
    else:
        assert len(short.text.encode()) <= limit + 80
        assert "the whole is in key" in short.text
        assert text.startswith(short.text.split("\n\n[...")[0])
        assert text.endswith(short.text.split("...]\n\n")[-1])


def test_the_usual_limit_keeps_an_event_small() -> None:
    assert len(cut("€" * 100_000).text.encode()) < 32 * 1024
    assert len(cut("x" * LIMIT).text) == LIMIT
