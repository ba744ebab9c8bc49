"""`nightshift dlq`: list the records that could not be handled, redrive them after the fix, or drop them."""

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import cyclopts

from nightshift.bus.dead_letter_codec import DeadLetter
from nightshift.bus.dead_letters import DeadLetterFilter, DeadLetters, ListedDeadLetter, restored
from nightshift.bus.kafka.producer import KafkaProducer
from nightshift.bus.kafka.reader import KafkaReader
from nightshift.bus.settings import KafkaSettings
from nightshift.cli.connect import DEFAULT_HOME, Home, Json, settings_for
from nightshift.cli.errors import WrongUsage
from nightshift.cli.exits import Exit
from nightshift.cli.output import note, report_error, write_fields, write_json, write_line, write_table
from nightshift.eventlog.errors import ConfigurationError, NightshiftError, NotFound, Refused
from nightshift.eventlog.objects.port import ObjectStore
from nightshift.eventlog.objects.s3 import S3ObjectStore
from nightshift.eventlog.settings import ObjectStoreSettings
from nightshift.servicekit import logs

app = cyclopts.App(name="dlq", help="List dead letters, redrive them to their topics, drop them.")

#: How many bytes of a body `show` prints.
_SHOWN_BYTES = 16_384
#: The longest reason of `drop`, in characters.
_REASON = 500

Topic = Annotated[str | None, cyclopts.Parameter(help="Only dead letters from this topic.")]
Reason = Annotated[
    str | None, cyclopts.Parameter(help="Only dead letters with this reason, such as invalid_data.")
]


@app.command(name="list")
def list_(
    *,
    topic: Topic = None,
    reason: Reason = None,
    limit: Annotated[int, cyclopts.Parameter(help="At most so many, the newest.")] = 100,
    all_: Annotated[
        bool, cyclopts.Parameter(name="--all", negative=(), help="Also those that were redriven or dropped.")
    ] = False,
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> int:
    """List the dead letters, oldest first.

    Example: nightshift dlq list --reason invalid_data
    """
    dead_letters, _ = _open(home)
    wanted = DeadLetterFilter(topic=topic, reason=reason, closed=all_)
    found = asyncio.run(dead_letters.list(wanted, bodies=False))
    shown = found[max(0, len(found) - limit) :]
    if json:
        write_json([_summary(each) for each in shown])
        return Exit.OK
    write_table(
        ("ID", "SINCE", "TOPIC", "REASON", "KEY", "BYTES", "CLOSED", "ERROR"),
        [
            (
                each.dead_letter.id,
                each.dead_letter.dead_lettered_at[:19],
                each.dead_letter.source_topic,
                each.dead_letter.reason,
                _text(each.dead_letter.key),
                each.dead_letter.value_bytes,
                _closed(each),
                each.dead_letter.error[:80],
            )
            for each in shown
        ],
    )
    if len(shown) < len(found):
        note(f"{len(found) - len(shown)} older ones are not shown; --limit shows more")
    return Exit.OK


@app.command
def show(
    id_: Annotated[str, cyclopts.Parameter(name="ID", help="The id of a dead letter, or its beginning.")],
    /,
    *,
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> int:
    """Show one dead letter: where it came from, why it was not handled, and the record itself.

    Example: nightshift dlq show 3f9a
    """
    dead_letters, _ = _open(home)

    async def look() -> tuple[ListedDeadLetter, bytes | None]:
        listed = await dead_letters.find(id_)
        found = [letter async for letter in dead_letters.whole([listed.dead_letter.id])]
        if not found:
            raise NotFound(
                f"the dead letter {id_[:64]} is gone",
                hint="the topic keeps dead letters for a limited time",
            )
        async with AsyncExitStack() as stack:
            whole = await restored(found[0], await _objects(found[0], stack, home))
        return replace(listed, dead_letter=whole), whole.value

    listed, body = asyncio.run(look())
    if json:
        write_json({**_summary(listed), "headers": _headers(listed), "body": _text(body)})
        return Exit.OK
    write_fields({name: value for name, value in _summary(listed).items() if value is not None})
    write_line()
    for name, value in _headers(listed):
        write_line(f"{_escaped(name)}: {_escaped(value or '')}")
    write_line()
    if body is None:
        write_line("(no value)")
    else:
        write_line(_escaped(_text(body[:_SHOWN_BYTES]) or ""))
        if len(body) > _SHOWN_BYTES:
            note(f"{len(body) - _SHOWN_BYTES} more bytes are not shown; --json prints all")
    return Exit.OK


@app.command
def redrive(
    *ids: Annotated[str, cyclopts.Parameter(help="Ids of dead letters, or their beginnings.")],
    all_: Annotated[
        bool, cyclopts.Parameter(name="--all", negative=(), help="Every dead letter that is listed.")
    ] = False,
    topic: Topic = None,
    reason: Reason = None,
    dry_run: Annotated[bool, cyclopts.Parameter(negative=(), help="Only print what would be sent.")] = False,
    yes: Annotated[bool, cyclopts.Parameter(negative=(), help="Do not ask.")] = False,
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> int:
    """Send dead letters again to the topics they came from, with their bytes and headers unchanged.

    The list hides a dead letter that was redriven. A record that fails again becomes a new dead letter. `--all` leaves
    out those that were dropped; give their ids to redrive them.

    Example: nightshift dlq redrive --all --reason unknown_type
    """
    if bool(ids) == all_:
        raise cyclopts.ValidationError(
            exception_message="give ids, or --all", command_chain=("dlq", "redrive")
        )
    if not (yes or dry_run) and not sys.stdin.isatty():
        raise Refused(
            "nothing was sent: there is no terminal to ask for a confirmation",
            hint="--yes sends without asking, --dry-run only prints what would be sent",
        )
    dead_letters, settings = _open(home)
    chosen = asyncio.run(_choose(dead_letters, ids, DeadLetterFilter(topic=topic, reason=reason)))
    if not (yes or dry_run) and chosen and not _agreed(chosen):
        report_error("nothing was sent")
        return Exit.CANCELLED
    outcomes = [_Outcome(each, None) for each in chosen]
    if not dry_run and chosen:
        outcomes = asyncio.run(_redrive(dead_letters, settings, chosen, home))
    failed = [each for each in outcomes if each.error is not None]
    word = "would be sent" if dry_run else "sent"
    if json:
        write_json(
            [
                {"id": each.listed.dead_letter.id, "topic": each.listed.dead_letter.source_topic,
                 "driven": not dry_run and each.error is None, "error": each.error}
                for each in outcomes
            ]
        )  # fmt: skip
    else:
        for each in outcomes:
            write_line(
                f"{each.listed.dead_letter.id}  {each.listed.dead_letter.source_topic}  {each.error or word}"
            )
    if failed:
        report_error(
            f"{len(failed)} of {len(outcomes)} dead letters were not sent", "the lines above say why"
        )
    return Exit.ERROR if failed else Exit.OK


@app.command(name="drive", show=False)
@wraps(redrive)
def _drive(*arguments: Any, **options: Any) -> int:
    """The former name of `redrive`."""
    note("`nightshift dlq drive` is deprecated; use `nightshift dlq redrive`")
    return redrive(*arguments, **options)


@app.command
def drop(
    *ids: Annotated[str, cyclopts.Parameter(help="Ids of dead letters, or their beginnings.")],
    reason: Annotated[str, cyclopts.Parameter(help="Why they will not be handled; kept with the record.")],
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Drop dead letters that can never be handled. The list hides them; the record and the reason are kept.

    `list --all` and `show` still show them. One that was dropped by mistake can be redriven by its id.

    Example: nightshift dlq drop 3f9a --reason "a test of ours, sent to the wrong place"
    """
    if not ids:
        raise cyclopts.ValidationError(exception_message="give ids", command_chain=("dlq", "drop"))
    if not reason.strip() or len(reason) > _REASON:
        raise WrongUsage(f"--reason takes 1 to {_REASON} characters", hint="a sentence that says why")
    dead_letters, settings = _open(home)
    dropped = asyncio.run(_drop(dead_letters, settings, ids, reason))
    if json:
        write_json([{**_summary(each), "dropped": reason} for each in dropped])
        return
    for each in dropped:
        write_line(f"{each.dead_letter.id}  {each.dead_letter.source_topic}  dropped")


async def _drop(
    dead_letters: DeadLetters, settings: KafkaSettings, ids: tuple[str, ...], reason: str
) -> list[ListedDeadLetter]:
    chosen = await _choose(dead_letters, ids, DeadLetterFilter())
    async with KafkaProducer(settings, client_id="nightshift-dlq") as producer:
        for each in chosen:
            await dead_letters.drop(each.dead_letter, reason, producer)
    return chosen


@dataclass(frozen=True, slots=True)
class _Outcome:
    listed: ListedDeadLetter
    error: str | None


def _open(home: Path) -> tuple[DeadLetters, KafkaSettings]:
    settings = settings_for(KafkaSettings, home)
    # Without this the Kafka client would log to stdout, among the data.
    logs.configure(level="warning", format="console", secrets=settings.secrets())
    topics = settings.topics
    known = [topic for topic in topics.all if topic != topics.dead_letter]
    return DeadLetters(KafkaReader(settings), topic=topics.dead_letter, known_topics=known), settings


async def _choose(
    dead_letters: DeadLetters, ids: tuple[str, ...], wanted: DeadLetterFilter
) -> list[ListedDeadLetter]:
    if not ids:
        return await dead_letters.list(wanted, bodies=False)
    return [await dead_letters.find(each) for each in dict.fromkeys(ids)]


def _agreed(chosen: list[ListedDeadLetter]) -> bool:
    note(f"{len(chosen)} dead letters will be sent again. Continue? [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _redrive(
    dead_letters: DeadLetters, settings: KafkaSettings, chosen: list[ListedDeadLetter], home: Path
) -> list[_Outcome]:
    """Sends the chosen dead letters again in the order of their topic. Holds one of them in memory at a time."""
    outcomes: dict[str, str | None] = {}
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(KafkaProducer(settings, client_id="nightshift-dlq"))
        async for letter in dead_letters.whole([each.dead_letter.id for each in chosen]):
            try:
                await dead_letters.redrive(letter, producer, await _objects(letter, stack, home))
            except NightshiftError as error:
                outcomes[letter.id] = str(error)
            else:
                outcomes[letter.id] = None
    return [
        _Outcome(each, outcomes.get(each.dead_letter.id, "the topic no longer holds it")) for each in chosen
    ]


async def _objects(letter: DeadLetter, stack: AsyncExitStack, home: Path) -> ObjectStore | None:
    """The object store, when this dead letter needs it and the settings name one. None otherwise."""
    if letter.value_ref is None and letter.headers_ref is None:
        return None
    try:
        settings = settings_for(ObjectStoreSettings, home)
    except ConfigurationError:
        return None
    return await stack.enter_async_context(S3ObjectStore(settings))


def _closed(listed: ListedDeadLetter) -> str | None:
    if listed.dropped is not None:
        return f"dropped: {listed.dropped[:40]}"
    return "redriven" if listed.redriven else None


def _summary(listed: ListedDeadLetter) -> dict[str, Any]:
    letter = listed.dead_letter
    return {
        "id": letter.id,
        "topic": letter.source_topic,
        "partition": letter.source_partition,
        "offset": letter.source_offset,
        "group": letter.group,
        "key": _text(letter.key),
        "branch": letter.branch,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "first_failed_at": letter.first_failed_at,
        "last_failed_at": letter.last_failed_at,
        "parked_at": letter.dead_lettered_at,
        "bytes": letter.value_bytes,
        "body_ref": letter.value_ref,
        "driven": listed.redriven,
        "dropped": listed.dropped,
    }


def _headers(listed: ListedDeadLetter) -> list[tuple[str, str | None]]:
    return [(name, _text(value)) for name, value in listed.dead_letter.headers]


def _text(value: bytes | None) -> str | None:
    """Bytes as text. A byte that is not UTF-8 is shown as \\xNN."""
    return None if value is None else value.decode(errors="backslashreplace")


def _escaped(text: str) -> str:
    """The text with control characters escaped, so that a body cannot control the terminal. Keeps line breaks."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )
