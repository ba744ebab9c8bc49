"""`nightshift dlq`: list the records that could not be handled, redrive them after the fix, or drop them."""

import sys
from contextlib import AsyncExitStack
from dataclasses import replace
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
_COLUMNS = ("ID", "SINCE", "TOPIC", "REASON", "KEY", "BYTES", "CLOSED", "ERROR")

Topic = Annotated[str | None, cyclopts.Parameter(help="Only dead letters from this topic.")]
Reason = Annotated[
    str | None, cyclopts.Parameter(help="Only dead letters with this reason, such as invalid_data.")
]
Ids = Annotated[str, cyclopts.Parameter(help="Ids of dead letters, or their beginnings.")]
All = Annotated[bool, cyclopts.Parameter(name="--all", negative=())]
Flag = Annotated[bool, cyclopts.Parameter(negative=())]


@app.command(name="list")
async def list_(
    *,
    topic: Topic = None,
    reason: Reason = None,
    limit: int = 100,
    all_: All = False,
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """List the dead letters, oldest first.

    For example:

        nightshift dlq list --reason invalid_data

    Args:
        limit: The most dead letters to list, the newest ones.
        all_: List also those that were redriven or dropped.
    """
    wanted = DeadLetterFilter(topic=topic, reason=reason, closed=all_)
    found = await _open(home)[0].list(wanted, bodies=False)
    listed = found[max(0, len(found) - limit) :]
    if json:
        write_json([_summary(each) for each in listed])
    elif listed:
        write_table(_COLUMNS, [_row(each) for each in listed])
    else:
        note("no dead letters" if all_ else "no dead letters wait; --all shows those redriven or dropped")
    if len(listed) < len(found):
        note(f"{len(found) - len(listed)} older ones are not shown; --limit shows more")


@app.command
async def show(
    id_: Annotated[str, cyclopts.Parameter(name="ID", help="The id of a dead letter, or its beginning.")],
    /,
    *,
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Show one dead letter: where it came from, why it was not handled, and the record itself.

    For example:

        nightshift dlq show 3f9a
    """
    dead_letters, _ = _open(home)
    listed = await dead_letters.find(id_)
    found = [letter async for letter in dead_letters.whole([listed.dead_letter.id])]
    if not found:
        hint = "the topic keeps dead letters for a limited time"
        raise NotFound(f"the dead letter {id_[:64]} is gone", hint=hint)
    async with AsyncExitStack() as stack:
        letter = await restored(found[0], await _objects(found[0], stack, home))
    summary = _summary(replace(listed, dead_letter=letter))
    headers = [(name, _text(value)) for name, value in letter.headers]
    if json:
        write_json({**summary, "headers": headers, "body": _text(letter.value)})
        return
    write_fields({name: value for name, value in summary.items() if value is not None})
    write_line()
    for name, value in headers:
        write_line(f"{_escaped(name)}: {_escaped(value or '')}")
    write_line()
    if letter.value is None:
        write_line("(no value)")
        return
    write_line(_escaped(_text(letter.value[:_SHOWN_BYTES]) or ""))
    if len(letter.value) > _SHOWN_BYTES:
        note(f"{len(letter.value) - _SHOWN_BYTES} more bytes are not shown; --json prints all")


@app.command
async def redrive(
    *ids: Ids,
    all_: All = False,
    topic: Topic = None,
    reason: Reason = None,
    dry_run: Flag = False,
    yes: Flag = False,
    json: Json = False,
    home: Home = DEFAULT_HOME,
) -> int:
    """Send dead letters again to the topics they came from, with their bytes and headers unchanged.

    The list hides a dead letter that was redriven. A record that fails again becomes a new dead letter. `--all` leaves
    out those that were dropped; give their ids to redrive them.

    For example:

        nightshift dlq redrive --all --reason unknown_type

    Args:
        all_: Every dead letter that is listed.
        dry_run: Only print what would be sent.
        yes: Do not ask.
    """
    if bool(ids) == all_:
        raise WrongUsage("give ids, or --all", hint="`nightshift dlq list` shows the ids")
    asks = not (yes or dry_run)
    if asks and not sys.stdin.isatty():
        raise Refused(
            "nothing was sent: there is no terminal to ask for a confirmation",
            hint="--yes sends without asking, --dry-run only prints what would be sent",
        )
    dead_letters, settings = _open(home)
    chosen = await _choose(dead_letters, ids, DeadLetterFilter(topic=topic, reason=reason))
    if asks and chosen and not _agreed(len(chosen)):
        report_error("nothing was sent")
        return Exit.CANCELLED
    errors: dict[str, str | None] = {letter.id: None for letter in chosen}
    if not dry_run and chosen:
        errors |= await _redrive(dead_letters, settings, chosen, home)
    failed = sum(error is not None for error in errors.values())
    if json:
        write_json(
            [
                {"id": one.id, "topic": one.source_topic, "driven": not dry_run and not errors[one.id],
                 "error": errors[one.id]}
                for one in chosen
            ]
        )  # fmt: skip
    else:
        word = "would be sent" if dry_run else "sent"
        for one in chosen:
            write_line(f"{one.id}  {one.source_topic}  {errors[one.id] or word}")
    if failed:
        report_error(f"{failed} of {len(chosen)} dead letters were not sent", "the lines above say why")
    return Exit.ERROR if failed else Exit.OK


@app.command(name="drive", show=False)
@wraps(redrive)
async def _drive(*arguments: Any, **options: Any) -> int:
    """The former name of `redrive`, which still works."""
    note("`nightshift dlq drive` is deprecated; use `nightshift dlq redrive`")
    return await redrive(*arguments, **options)


@app.command
async def drop(*ids: Ids, reason: str, json: Json = False, home: Home = DEFAULT_HOME) -> None:
    """Drop dead letters that can never be handled. The list hides them; the record and the reason are kept.

    `list --all` and `show` still show them. One that was dropped by mistake can be redriven by its id.

    For example:

        nightshift dlq drop 3f9a --reason "a test of ours, sent to the wrong place"

    Args:
        reason: Why they will not be handled; kept with the record.
    """
    if not ids:
        raise WrongUsage("give ids", hint="`nightshift dlq list` shows them")
    if not reason.strip() or len(reason) > _REASON:
        raise WrongUsage(f"--reason takes 1 to {_REASON} characters", hint="a sentence that says why")
    dead_letters, settings = _open(home)
    chosen = [await dead_letters.find(each) for each in dict.fromkeys(ids)]
    async with KafkaProducer(settings, client_id="nightshift-dlq") as producer:
        for each in chosen:
            await dead_letters.drop(each.dead_letter, reason, producer)
    if json:
        write_json([{**_summary(each), "dropped": reason} for each in chosen])
        return
    for each in chosen:
        write_line(f"{each.dead_letter.id}  {each.dead_letter.source_topic}  dropped")


def _open(home: Path) -> tuple[DeadLetters, KafkaSettings]:
    settings = settings_for(KafkaSettings, home)
    # Otherwise the Kafka client would log to stdout, between the data.
    logs.configure(level="warning", format="console", secrets=settings.secrets())
    topics = settings.topics
    known = [topic for topic in topics.all if topic != topics.dead_letter]
    return DeadLetters(KafkaReader(settings), topic=topics.dead_letter, known_topics=known), settings


async def _choose(
    dead_letters: DeadLetters, ids: tuple[str, ...], wanted: DeadLetterFilter
) -> list[DeadLetter]:
    if ids:
        return [(await dead_letters.find(each)).dead_letter for each in dict.fromkeys(ids)]
    return [each.dead_letter for each in await dead_letters.list(wanted, bodies=False)]


def _agreed(count: int) -> bool:
    note(f"{count} dead letters will be sent again. Continue? [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _redrive(
    dead_letters: DeadLetters, settings: KafkaSettings, chosen: list[DeadLetter], home: Path
) -> dict[str, str | None]:
    """Redrives these dead letters, in the order in which the topic of dead letters has them.

    Returns id → error, or None where it succeeded. Only one dead letter is in memory at a time.
    """
    errors: dict[str, str | None] = {one.id: "the topic no longer holds it" for one in chosen}
    async with AsyncExitStack() as stack:
        producer = await stack.enter_async_context(KafkaProducer(settings, client_id="nightshift-dlq"))
        async for letter in dead_letters.whole(list(errors)):
            errors[letter.id] = None
            try:
                await dead_letters.redrive(letter, producer, await _objects(letter, stack, home))
            except NightshiftError as error:
                errors[letter.id] = str(error)
    return errors


async def _objects(letter: DeadLetter, stack: AsyncExitStack, home: Path) -> ObjectStore | None:
    """Returns the object store when a part of this dead letter is stored there.

    Returns None when no part is, or when no settings for an object store are found.
    """
    if letter.value_ref is None and letter.headers_ref is None:
        return None
    try:
        settings = settings_for(ObjectStoreSettings, home)
    except ConfigurationError:
        return None
    return await stack.enter_async_context(S3ObjectStore(settings))


def _row(listed: ListedDeadLetter) -> tuple[object, ...]:
    letter, closed = listed.dead_letter, "redriven" if listed.redriven else None
    if listed.dropped is not None:
        closed = f"dropped: {listed.dropped[:40]}"
    came = letter.id, letter.dead_lettered_at[:19], letter.source_topic, letter.reason
    return *came, _text(letter.key), letter.value_bytes, closed, letter.error[:80]


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


def _text(value: bytes | None) -> str | None:
    """Returns bytes as text. A byte that is not UTF-8 becomes \\xNN."""
    return None if value is None else value.decode(errors="backslashreplace")


def _escaped(text: str) -> str:
    """Returns the text with control characters escaped, except line breaks, so that it cannot control the terminal."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )
