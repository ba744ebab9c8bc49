"""What a person does with dead letters: see them, look into one, drive them again, or give one up."""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from nightshift.bus import letters
from nightshift.bus.dispatch import DRIVEN_FROM
from nightshift.bus.letters import Letter
from nightshift.bus.policy import UNDECODABLE
from nightshift.bus.port import Inbound, Outgoing, Producer
from nightshift.eventlog.errors import BadMessage, Fault, NotFound, Refused
from nightshift.eventlog.objects.port import ObjectStore


class TopicReader(Protocol):
    """Reads a whole topic up to where it ends now."""

    def read(self, topic: str) -> AsyncIterator[Inbound]: ...


@dataclass(frozen=True, slots=True)
class Parked:
    """A letter, whether it was driven again, and why it was given up, if it was."""

    letter: Letter
    driven: bool
    dropped: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters: all that are set must agree. `topic` and `reason` are compared whole."""

    topic: str | None = None
    reason: str | None = None
    group: str | None = None
    over: bool = False  # show those too that were driven or given up

    def __call__(self, parked: Parked) -> bool:
        """Whether this letter is wanted."""
        letter = parked.letter
        return (
            (self.topic is None or letter.source_topic == self.topic)
            and (self.reason is None or letter.reason == self.reason)
            and (self.group is None or letter.group == self.group)
            and (self.over or not (parked.driven or parked.dropped is not None))
        )


class DeadLetters:
    """The dead-letter topic as a list. Reads it whole each time: it is meant to be short."""

    def __init__(self, reader: TopicReader, *, topic: str, known_topics: Iterable[str]) -> None:
        """`known_topics`: where letters may be driven to."""
        self._reader = reader
        self._topic = topic
        self._known_topics = frozenset(known_topics)

    async def list(self, wanted: Callable[[Parked], bool] = Wanted(), *, bodies: bool = True) -> list[Parked]:
        """The letters that are wanted, oldest first, each once. Records that are no letters are passed over.

        Without `bodies` each letter's value and headers are left out, so that a long list takes little memory.
        """
        found: dict[str, Letter] = {}
        driven: set[str] = set()
        dropped: dict[str, str] = {}
        async for record in self._reader.read(self._topic):
            if (marked := letters.driven_id(record)) is not None:
                driven.add(marked)
            elif (given_up := letters.dropped(record)) is not None:
                dropped[given_up[0]] = given_up[1]
            elif (letter := _letter(record)) is not None and letter.id not in found:
                found[letter.id] = letter if bodies else replace(letter, value=None, headers=())
        parked = [Parked(letter, letter.id in driven, dropped.get(letter.id)) for letter in found.values()]
        return sorted(filter(wanted, parked), key=lambda each: (each.letter.parked_at, each.letter.id))

    async def whole(self, ids: Iterable[str]) -> AsyncIterator[Letter]:
        """These letters with all that they hold, one after the other as they lie in the topic."""
        left = set(ids)
        async for record in self._reader.read(self._topic):
            if (letter := _letter(record)) is not None and letter.id in left:
                left.discard(letter.id)
                yield letter

    async def find(self, id: str) -> Parked:
        """The letter with this id, or with the only id that begins so, without its body. Raises NotFound, Refused."""
        every = await self.list(lambda _: True, bodies=False)
        found = [each for each in every if each.letter.id == id] or [
            each for each in every if id and each.letter.id.startswith(id)
        ]
        if not found:
            raise NotFound(f"no dead letter {id[:64]}", hint="`nightshift dlq list --all` shows every one")
        if len(found) > 1:
            raise Refused(f"{id} begins {len(found)} ids", hint="give more of the id")
        return found[0]

    async def drive(self, letter: Letter, producer: Producer, objects: ObjectStore | None) -> None:
        """Send the original again to its topic, then mark the letter as driven.

        In this order a crash in between drives it twice, which changes nothing. Raises Refused when it must not go
        where it says it came from, Unavailable.
        """
        if letter.reason == UNDECODABLE:
            raise Refused(
                f"letter {letter.id} holds bytes that no client can decode, so they cannot be sent as a message",
                hint="the sender must send it again; `nightshift dlq drop` gives the letter up",
            )
        if letter.source_topic not in self._known_topics:
            raise Refused(
                f"letter {letter.id} says it came from {letter.source_topic[:256]}, which is no topic of ours",
                hint="set NIGHTSHIFT_TOPIC_PREFIX to the installation's",
            )
        whole = await restored(letter, objects)
        headers = (
            *((name, value) for name, value in whole.headers if name != DRIVEN_FROM),
            (DRIVEN_FROM, letter.id.encode()),
        )
        await producer.send([Outgoing(letter.source_topic, whole.key, whole.value, headers)])
        await producer.send([letters.driven_marker(self._topic, letter)])

    async def drop(self, letter: Letter, reason: str, producer: Producer) -> None:
        """Note that this letter is given up: it is not listed any more, nor driven with the others. It stays in the
        topic as a record, with the reason. Raises Unavailable."""
        await producer.send([letters.dropped_marker(self._topic, letter.id, reason)])


def _letter(record: Inbound) -> Letter | None:
    try:
        return letters.read(record)
    except BadMessage:
        return None


async def restored(letter: Letter, objects: ObjectStore | None) -> Letter:
    """The letter with what was kept in the object store. Raises Refused without one, Fault when the bytes differ."""
    if letter.value_ref is not None:
        letter = replace(letter, value=await _fetch(letter.value_ref, objects))
    if letter.headers_ref is not None:
        *headers, (_, key) = letters.unpack_headers(await _fetch(letter.headers_ref, objects))
        letter = replace(letter, headers=tuple(headers), key=key)
    return letter


async def _fetch(digest: str, objects: ObjectStore | None) -> bytes:
    if objects is None:
        raise Refused(
            "its body is in the object store",
            hint="set NIGHTSHIFT_S3_BUCKET and the other NIGHTSHIFT_S3_ variables",
        )
    body = await objects.get(letters.object_key(digest))
    if letters.digest(body) != digest:
        raise Fault(f"the object store has other bytes than {digest}")
    return body
