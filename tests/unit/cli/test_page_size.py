"""The page of a long build stays small enough to open from a file and to send."""

from tests.support.long_build import long_build

from nightshift.cli.page import MOST_BYTES, page


def test_the_page_of_150_turns_has_at_most_two_megabytes():
    assert len(page("b1", long_build(150)).encode()) <= MOST_BYTES <= 2_000_000
