"""Repairs an answer of the model before it is recorded, because the API refuses some blocks that it has itself sent.

All other blocks are sent back exactly as they came. The event `model_call.responded` names the repairs.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nightshift.orchestrator.domain.conversation import is_visible
from nightshift.orchestrator.domain.state import Entry, ToolResults

Block = dict[str, Any]

#: The field that proves a block of thinking. A block that was cut off has no proof.
_PROOF = {"thinking": "signature", "redacted_thinking": "data"}


def repair(
    content: tuple[Block, ...], invalid_inputs: Mapping[int, str], used_ids: Collection[str]
) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """Repair the blocks of an answer, so that the API accepts them in the next request.

    Returns the repaired blocks, and the names of the repairs in the order in which they were made.
    """
    repaired: dict[str, None] = {}
    blocks: list[Block] = []
    ids = set(used_ids)
    changed: str | None = None  # what makes later thinking invalid, which is bound to all blocks before it
    for index, block in enumerate(content):
        if _is_unsigned(block):
            changed = "unsigned_thinking"
        if changed is not None and block.get("type") in _PROOF:
            repaired[changed] = None
        elif not is_visible(block):
            repaired["blank_text"] = None
            changed = changed or "unbound_thinking"
        elif block.get("type") == "tool_use":
            blocks.append(_call(block, invalid_inputs.get(index), ids, repaired))
            if blocks[-1] != block:
                changed = changed or "unbound_thinking"
        else:
            blocks.append(block)
    while blocks and blocks[-1].get("type") in _PROOF:
        blocks.pop()
        repaired["final_thinking"] = None
    return tuple(blocks), tuple(repaired)


def used_ids(entries: Sequence[Entry]) -> set[str]:
    """Return the ids of the tool calls that have a result in these entries."""
    return {
        result.tool_use_id for entry in entries if isinstance(entry, ToolResults) for result in entry.results
    }


def _is_unsigned(block: Block) -> bool:
    proof = _PROOF.get(str(block.get("type")))
    return proof is not None and not block.get(proof)


def _call(block: Block, invalid: str | None, ids: set[str], repaired: dict[str, None]) -> Block:
    """Return the tool call `block`, repaired where needed: its input is an object, and no other call has its id.

    Adds the id to `ids`, and the name of each repair to `repaired`.
    """
    given, call_id = block.get("input"), str(block.get("id"))
    if invalid is not None:
        # Anthropic's documentation names this form for sending back an invalid input.
        given = {"INVALID_JSON": invalid}
        repaired["invalid_input"] = None
    elif not isinstance(given, dict):
        given = {}
        repaired["null_input"] = None
    if call_id in ids:
        call_id = next(
            new for number in range(2, len(ids) + 3) if (new := f"{call_id[:240]}-{number}") not in ids
        )
        repaired["repeated_id"] = None
    ids.add(call_id)
    return {**block, "id": call_id, "input": given}
