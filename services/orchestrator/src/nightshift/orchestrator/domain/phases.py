"""The phases of a build and the legal moves between them, as one table.

The README's diagram is generated from the table.
"""

from collections.abc import Mapping
from types import MappingProxyType

from nightshift.contracts.events.build import Phase
from nightshift.eventlog.errors import Fault

ENDS = frozenset({Phase.READY, Phase.FAILED, Phase.CANCELLED})

_FORWARD: dict[Phase, frozenset[Phase]] = {
    Phase.QUEUED: frozenset({Phase.STARTING}),
    Phase.STARTING: frozenset({Phase.SCAFFOLD}),
    # When the agent never names its phase, the build goes straight to the checks.
    Phase.SCAFFOLD: frozenset({Phase.CODE, Phase.DEPS, Phase.CHECKS}),
    Phase.CODE: frozenset({Phase.DEPS, Phase.CHECKS}),
    Phase.DEPS: frozenset({Phase.CHECKS}),
    # Back to code when a check failed and tries are left.
    Phase.CHECKS: frozenset({Phase.CODE, Phase.READY}),
}

#: The phases to which a build may move from each phase. A build that has not ended may always fail or be cancelled.
MOVES: Mapping[Phase, frozenset[Phase]] = MappingProxyType(
    {phase: to | {Phase.FAILED, Phase.CANCELLED} for phase, to in _FORWARD.items()}
    | {phase: frozenset() for phase in ENDS}
)


class IllegalMove(Fault):
    """A build was moved from one phase to another although the table MOVES does not contain this move."""


def may_move(from_phase: Phase, to_phase: Phase) -> bool:
    """Return whether the table MOVES lets a build go from `from_phase` to `to_phase`."""
    return to_phase in MOVES[from_phase]


def move(from_phase: Phase, to_phase: Phase) -> Phase:
    """Return `to_phase`. Raises IllegalMove when the table MOVES does not let a build go there from `from_phase`."""
    if not may_move(from_phase, to_phase):
        raise IllegalMove(f"a build cannot go from {from_phase} to {to_phase}")
    return to_phase


def mermaid() -> str:
    """Return the table MOVES as a Mermaid state diagram.

    One arrow stands for all moves to `failed`, and one for all moves to `cancelled`.
    """
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.QUEUED}"]
    for phase in Phase:
        lines += [f"    {phase} --> {to}" for to in Phase if to in _FORWARD.get(phase, ())]
    lines.append('    state "any phase that has not ended" as any')
    lines += [f"    any --> {end}" for end in (Phase.FAILED, Phase.CANCELLED)]
    lines += [f"    {end} --> [*]" for end in Phase if end in ENDS]
    return "\n".join(lines) + "\n"
