"""Decides when the conversation is condensed and what stays of it, and folds the boundary. Pure.

Between two boundaries each request begins with the bytes of the one before. A boundary is one event
`context.condensed`. It replaces the oldest turns by a summary and cuts long results of the turns that stay. The
thinking of these turns is left out, because the provider binds it to everything that came before.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from nightshift.contracts import models, prices
from nightshift.contracts.events.build import ContextCondensed
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import AskUser, Document, EditFile, WriteFile
from nightshift.orchestrator.domain import conversation, model_choice, prompt
from nightshift.orchestrator.domain.entries import Entries
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.repetition import call_in_words
from nightshift.orchestrator.domain.state import (
    AssistantMessage,
    Blocks,
    BuildState,
    Entry,
    PastWork,
    Text,
    ToolResult,
    ToolResults,
)

#: The provider is asked for a count only when more tokens than this are estimated.
_WORTH_COUNTING = 4_000
#: The turns that stay have at most a quarter of the limit. A boundary that frees less than half of that is not worth
#: it.
_KEPT_PART = 4
#: The most characters that are kept of a tool's result, and how many of them are its beginning.
_RESULT, _BEGINNING = 4_000, 2_600
#: The most files, outputs and statements of people that are kept across boundaries.
_REMEMBERED = 200
_THINKING = frozenset({"thinking", "redacted_thinking"})
_WRITING = frozenset({WriteFile.tool, EditFile.tool, Document.tool})
#: What the sandbox gateway writes into a result that it has cut.
_WHOLE_IN = re.compile(r"the whole is in ([^\n]{1,500}?) \.\.\.\]")
_CUT = "\n\n[... {left_out} characters left out when the conversation was condensed{whole} ...]\n\n"
_NO_IMAGE = "[an image, left out when the conversation was condensed; read it again if you need it]"


def limit(state: BuildState, policy: Policy) -> int:
    """Return the most tokens that a request may have before the conversation is condensed.

    For a model that charges more for long prompts, the limit is where the higher price begins.
    """
    accepted = state.request
    room = models.card_of(accepted.model).context - model_choice.output_limit(accepted, policy)
    cheap = prices.price_of(accepted.model).long_from or room
    return min(room * 9 // 10, cheap, policy.context_tokens)


def size(state: BuildState, policy: Policy) -> int:
    """Return an upper bound of the tokens of the next request.

    Messages that the loop itself adds when it sends the request are not counted.
    """
    tokens = state.conversation.tokens
    return prompt.size_bound(state, policy) if tokens is None else tokens


def is_guess(state: BuildState, policy: Policy) -> bool:
    """Return whether so much of the next request's size is estimated that the provider should count its tokens."""
    return size(state, policy) - (state.conversation.counted or 0) > _WORTH_COUNTING


def guess_decides(state: BuildState, policy: Policy) -> bool:
    """Return whether only a count by the provider can tell if the next request exceeds the limit.

    That is so when its size exceeds the limit, and too much of this size is estimated.
    """
    over = size(state, policy) > limit(state, policy)
    return over and not state.conversation.too_long and is_guess(state, policy)


def with_count(state: BuildState, tokens: int) -> BuildState:
    """Return the state with the provider's count of the next request.

    Use that state only to decide, because no event contains the count yet.
    """
    return replace(state, conversation=replace(state.conversation, tokens=tokens, counted=tokens))


def is_over(state: BuildState, policy: Policy) -> bool:
    """Return whether the conversation must be condensed: the next request exceeds the limit and can become smaller.

    The size of the request may be an estimate.
    """
    over = size(state, policy) > limit(state, policy)
    return (state.conversation.too_long or over) and through_turn(state, policy) is not None


def has_thinking(state: BuildState) -> bool:
    """Return whether a turn of the conversation contains thinking."""
    return any(
        block.get("type") in _THINKING
        for entry in state.conversation.entries
        if isinstance(entry, AssistantMessage) and not isinstance(entry.content, BlobRef)
        for block in entry.content
    )


def through_turn(state: BuildState, policy: Policy) -> int | None:
    """Return the last turn that a summary would replace now, or None when a summary would gain nothing."""
    history = state.conversation
    pairs = list(_pairs(history.entries))
    if not pairs:
        return None
    most = limit(state, policy) // _KEPT_PART
    if history.too_long:
        # The model's context is smaller than expected.
        most = min(most, _tokens(history.entries) // _KEPT_PART)
    if history.condensed_at == history.turn:
        most = 0  # the last boundary, at the same turn, did not suffice
    through, kept = pairs[-1].turn, 0
    for index in range(len(pairs) - 1, -1, -1):
        pair = pairs[index]
        kept += _tokens(_shortened(history.entries[pair.begin : pair.end], images=index == len(pairs) - 1))
        if kept > most:
            break
        through = pair.turn - 1
    dropped = _tokens(dropped_entries(state, through))
    if dropped == 0 or (not history.too_long and dropped < most // 2):
        return None
    return through


def dropped_entries(state: BuildState, through: int) -> tuple[Entry, ...]:
    """Return the oldest entries of the conversation, up to and including the results of turn `through`.

    A summary that reaches to this turn replaces these entries.
    """
    return state.conversation.entries[: _dropped(state.conversation.entries, through)]


def condensed(state: BuildState, data: ContextCondensed) -> BuildState:
    """Fold the event `context.condensed`: the conversation becomes its first message with the summary, and the newest
    turns.

    When the event has no summary, the earlier summary stays.
    """
    history = state.conversation
    dropped = dropped_entries(state, data.through_turn)
    rest = history.entries[len(dropped) :]
    last = max((index for index, entry in enumerate(rest) if isinstance(entry, ToolResults)), default=-1)
    entries = Entries(
        short for index, entry in enumerate(rest) for short in _shortened((entry,), images=index == last)
    )
    fresh = replace(
        history,
        entries=entries,
        summary=history.summary if data.summary is None else data.summary,
        past=past_work(history.past, dropped),
        condensed_at=history.turn,
        sent=0,
        limits_told=None,
        tokens=None,
        counted=None,
        too_long=False,
    )
    return replace(state, conversation=fresh)


def past_work(past: PastWork, dropped: tuple[Entry, ...]) -> PastWork:
    """Return `past` with what the dropped entries add to it: written files, stored outputs, and answered questions.

    Each summary is followed by these, so that the agent does not lose them.
    """
    files, outputs, answers = (dict.fromkeys(one) for one in (past.files, past.outputs, past.answers))
    for one, following in pairwise((*dropped, None)):
        if not isinstance(one, AssistantMessage) or isinstance(one.content, BlobRef):
            continue
        results = following.results if isinstance(following, ToolResults) else ()
        by_id = {result.tool_use_id: result for result in results}
        for use in one.content:
            result = by_id.get(str(use.get("id")))
            if use.get("type") != "tool_use" or result is None:
                continue
            given = use.get("input")
            fields: dict[str, Any] = given if isinstance(given, dict) else {}
            text = _text_of(result)
            if use.get("name") in _WRITING and not result.is_error and fields.get("file_path"):
                files[str(fields["file_path"])] = None
            if use.get("name") == AskUser.tool and fields.get("question"):
                answers[f"{fields['question']} → {text}"] = None
            if kept := _WHOLE_IN.search(text):
                outputs[f"{call_in_words(str(use.get('name')), fields)}: {kept[1]}"] = None
    return PastWork(tuple(files)[-_REMEMBERED:], tuple(outputs)[-_REMEMBERED:], tuple(answers)[-_REMEMBERED:])


@dataclass(frozen=True, slots=True)
class _Pair:
    """An answer of the model and the results of its tool calls.

    These are the entries with the indexes from `begin` up to, but not including, `end`.
    """

    turn: int
    begin: int
    end: int


def _pairs(entries: Sequence[Entry]) -> Iterator[_Pair]:
    for index, entry in enumerate(entries):
        if isinstance(entry, AssistantMessage):
            has_results = index + 1 < len(entries) and isinstance(entries[index + 1], ToolResults)
            yield _Pair(entry.turn, index, index + 1 + has_results)


def _dropped(entries: Sequence[Entry], through: int) -> int:
    """Return the number of entries up to and including the results of turn `through`."""
    return max((pair.end for pair in _pairs(entries) if pair.turn <= through), default=0)


def _tokens(entries: Sequence[Entry]) -> int:
    return sum(map(conversation.entry_tokens, entries))


def _shortened(entries: Sequence[Entry], *, images: bool) -> tuple[Entry, ...]:
    """Return the entries without thinking and with long results cut. Unless `images`, a text replaces each image."""
    return tuple(_short(entry, images=images) for entry in entries)


def _short(entry: Entry, *, images: bool) -> Entry:
    if isinstance(entry, AssistantMessage) and not isinstance(entry.content, BlobRef):
        content = tuple(block for block in entry.content if block.get("type") not in _THINKING)
        return replace(entry, content=content)
    if isinstance(entry, ToolResults):
        return ToolResults(
            tuple(
                replace(one, output=_cut(one.output), blocks=_short_blocks(one.blocks, images=images))
                for one in entry.results
            )
        )
    return entry


def _short_blocks(blocks: Blocks | None, *, images: bool) -> Blocks | None:
    if blocks is None or isinstance(blocks, BlobRef):
        return blocks
    return tuple(_short_block(block, images=images) for block in blocks)


def _short_block(block: dict[str, Any], *, images: bool) -> dict[str, Any]:
    if isinstance(block.get("text"), str):
        return {**block, "text": _cut(block["text"])}
    return block if images else {"text": _NO_IMAGE, "type": "text"}


def _cut(text: Text) -> Text:
    if isinstance(text, BlobRef) or len(text) <= _RESULT:
        return text
    kept = _WHOLE_IN.search(text)
    note = _CUT.format(left_out=len(text) - _RESULT, whole=f"; the whole is in {kept[1]}" if kept else "")
    return text[:_BEGINNING] + note + text[-(_RESULT - _BEGINNING) :]


def _text_of(result: ToolResult) -> str:
    return "" if isinstance(result.output, BlobRef) else result.output
