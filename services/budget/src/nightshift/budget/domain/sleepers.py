"""Decides how much money a sleeping build gets when it wakes, and what remains for the sleepers after it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """What a build needs, in microdollars: its next call costs at most `minimum`, and it asks for `amount` (≥
    `minimum`).
    """

    amount: int
    minimum: int


def share(left: int, need: Need, later: Sequence[Need]) -> Need | None:
    """Return the money to reserve for a sleeping build, or None when `left` is not enough for its next call.

    `later` contains the needs of the builds that come after it. Their minimums are kept free, as far as `left` allows.
    The build gets the money that remains, up to the amount that it asks for.
    """
    if need.minimum > left:
        return None
    spare = left - need.minimum
    for other in later:
        if other.minimum <= spare:
            spare -= other.minimum
    return Need(min(need.amount, need.minimum + spare), need.minimum)
