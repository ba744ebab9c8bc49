"""The page for consumers names every header that a dead letter adds."""

import re
from pathlib import Path

from nightshift.bus import dead_letter_codec as codec

PAGE = Path(__file__).parents[3] / "docs/how-to/write-a-consumer.md"


def test_the_page_names_the_headers_of_dead_letters() -> None:
    named = set(re.findall(r"`(dlq_\w+)`", PAGE.read_text()))
    written = {
        value
        for name, value in vars(codec).items()
        if name.isupper() and isinstance(value, str) and value.startswith("dlq_")
    }
    markers = {one for one in written if one.startswith(("dlq_driven", "dlq_dropped"))}
    assert written - markers - named == {one for one in written if one.endswith("_ref")}
    assert named <= written
