"""Lets an operator list dead letters, read one, send its message again (redrive), or give it up (drop)."""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from nightshift.bus import dead_letter_codec as codec
from nightshift.bus.dead_letter_codec import DeadLetter
from nightshift.bus.dispatch import REDRIVEN_FROM
from nightshift.bus.policy import UNDECODABLE
from nightshift.bus.port import Inbound, Outgoing, Producer
from nightshift.eventlog.errors import BadMessage, Fault, NotFound, Refused
from nightshift.eventlog.objects.port import ObjectStore


class TopicReader(Protocol):
    """Reads all records of a topic."""

    def read(self, topic: str) -> AsyncIterator[Inbound]:
        """Yield the records that the topic has at the time of the call."""
        ...


@dataclass(frozen=True, slots=True)
class ListedDeadLetter:
    """A dead letter, and whether an operator has redriven or dropped it.

    `dropped` is the reason that the operator gave, or None when it was not dropped.
    """

    dead_letter: DeadLetter
    redriven: bool
    dropped: str | None = None

    @property
    def open(self) -> bool:
        """Whether no operator has redriven or dropped the dead letter yet."""
        return not self.redriven and self.dropped is None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects dead letters by source topic, reason and consumer group. None selects any.

    Dead letters that were redriven or dropped are selected only if `closed`.
    """

    topic: str | None = None
    reason: str | None = None
    group: str | None = None
    closed: bool = False

    def __call__(self, listed: ListedDeadLetter) -> bool:
        """Return whether the filter selects this dead letter."""
        dead_letter = listed.dead_letter
        return (
            (self.topic is None or dead_letter.source_topic == self.topic)
            and (self.reason is None or dead_letter.reason == self.reason)
            and (self.group is None or dead_letter.group == self.group)
            and (self.closed or listed.open)
        )


class DeadLetters:
    """Lists, redrives and drops dead letters. Every list reads the whole dead-letter topic, which should be short."""

    def __init__(self, reader: TopicReader, *, topic: str, known_topics: Iterable[str]) -> None:
        """Create the list of a dead-letter topic. A redrive sends messages only to the topics in `known_topics`."""
        self._reader = reader
        self._topic = topic
        self._known_topics = frozenset(known_topics)

    async def list(
        self, accepts: Callable[[ListedDeadLetter], bool] = DeadLetterFilter(), *, bodies: bool = True
    ) -> list[ListedDeadLetter]:
        """Return the dead letters that `accepts` selects, each once, oldest first.

        Skips records that are not dead letters. Unless `bodies`, their values and headers are left out, so that a long
        list needs little memory.
        """
        found: dict[str, DeadLetter] = {}
        redriven: set[str] = set()
        dropped: dict[str, str] = {}
        async for record in self._reader.read(self._topic):
            if (id := codec.redriven_id(record)) is not None:
                redriven.add(id)
            elif (drop := codec.dropped(record)) is not None:
                dropped[drop[0]] = drop[1]
            elif (dead_letter := _decoded(record)) is not None and dead_letter.id not in found:
                found[dead_letter.id] = (
                    dead_letter if bodies else replace(dead_letter, value=None, headers=())
                )
        listed = [
            ListedDeadLetter(each, each.id in redriven, dropped.get(each.id)) for each in found.values()
        ]
        return sorted(
            filter(accepts, listed),
            key=lambda each: (each.dead_letter.dead_lettered_at, each.dead_letter.id),
        )

    async def whole(self, ids: Iterable[str]) -> AsyncIterator[DeadLetter]:
        """Yield the dead letters with these ids, with their values and headers, in the topic's order."""
        left = set(ids)
        async for record in self._reader.read(self._topic):
            if (dead_letter := _decoded(record)) is not None and dead_letter.id in left:
                left.discard(dead_letter.id)
                yield dead_letter

    async def find(self, id: str) -> ListedDeadLetter:
        """Return the dead letter with this id, or the only one whose id starts with it.

        Its value and headers are left out. Raises NotFound when no id matches, and Refused when several ids start with
        it.
        """
        every = await self.list(lambda _: True, bodies=False)
        found = [each for each in every if each.dead_letter.id == id] or [
            each for each in every if id and each.dead_letter.id.startswith(id)
        ]
        if not found:
            raise NotFound(f"no dead letter {id[:64]}", hint="`nightshift dlq list --all` shows every one")
        if len(found) > 1:
            raise Refused(f"{id} begins {len(found)} ids", hint="give more of the id")
        return found[0]

    async def redrive(self, dead_letter: DeadLetter, producer: Producer, objects: ObjectStore | None) -> None:
        """Send the message of a dead letter to its source topic again, then mark the dead letter as redriven.

        After a crash between these steps, a second redrive sends the message twice. Handlers tolerate that. Raises
        Refused when the message cannot be decoded or its source topic is unknown. Raises Unavailable when the broker
        or the object store does not answer.
        """
        if dead_letter.reason == UNDECODABLE:
            raise Refused(
                f"dead letter {dead_letter.id} holds bytes that no client can decode: they are no message",
                hint="the sender must send it again; `nightshift dlq drop` gives the dead letter up",
            )
        if dead_letter.source_topic not in self._known_topics:
            raise Refused(
                f"dead letter {dead_letter.id} came from {dead_letter.source_topic[:256]}, which is no topic of ours",
                hint="set NIGHTSHIFT_TOPIC_PREFIX to the installation's",
            )
        whole = await restored(dead_letter, objects)
        headers = (
            *((name, value) for name, value in whole.headers if name != REDRIVEN_FROM),
            (REDRIVEN_FROM, dead_letter.id.encode()),
        )
        await producer.send([Outgoing(dead_letter.source_topic, whole.key, whole.value, headers)])
        await producer.send([codec.redriven_marker(self._topic, dead_letter)])

    async def drop(self, dead_letter: DeadLetter, reason: str, producer: Producer) -> None:
        """Mark a dead letter as given up, with the reason. Its record stays in the topic.

        Raises Unavailable when the broker does not answer.
        """
        await producer.send([codec.dropped_marker(self._topic, dead_letter.id, reason)])


def _decoded(record: Inbound) -> DeadLetter | None:
    try:
        return codec.read(record)
    except BadMessage:
        return None


async def restored(dead_letter: DeadLetter, objects: ObjectStore | None) -> DeadLetter:
    """Return the dead letter with its whole value and headers, which may be in the object store.

    Raises Refused when the object store is needed and `objects` is None. Raises Fault when the stored bytes do not
    have the digest in the dead letter.
    """
    if dead_letter.value_ref is not None:
        dead_letter = replace(dead_letter, value=await _fetch(dead_letter.value_ref, objects))
    if dead_letter.headers_ref is not None:
        *headers, (_, key) = codec.unpack_headers(await _fetch(dead_letter.headers_ref, objects))
        dead_letter = replace(dead_letter, headers=tuple(headers), key=key)
    return dead_letter


async def _fetch(digest: str, objects: ObjectStore | None) -> bytes:
    if objects is None:
        raise Refused(
            "its body is in the object store",
            hint="set NIGHTSHIFT_S3_BUCKET and the other NIGHTSHIFT_S3_ variables",
        )
    body = await objects.get(codec.object_key(digest))
    if codec.digest(body) != digest:
        raise Fault(f"the object store has other bytes than {digest}")
    return body
