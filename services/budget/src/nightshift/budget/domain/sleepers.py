"""What a sleeping build needs before it may wake, and how the money that is left is shared among sleepers."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """Money in microdollars. The next call costs at most `minimum`; the build asks for `amount`, at least that much."""

    amount: int
    minimum: int


def share(left: int, need: Need, later: Sequence[Need]) -> Need | None:
    """Return what to reserve for a sleeper, or None when `left` is not enough for its next call.

    Each of the `later` sleepers whose minimum still fits keeps its minimum. This one gets the rest, up to its amount.
    """
    if need.minimum > left:
        return None
    spare = left - need.minimum
    for other in later:
        if other.minimum <= spare:
            spare -= other.minimum
    return Need(min(need.amount, need.minimum + spare), need.minimum)
