"""What a person does with dead letters: list them, read one, send it again (redrive), or give it up (drop)."""

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
    """Reads a whole topic."""

    def read(self, topic: str) -> AsyncIterator[Inbound]:
        """Yield every record up to the ends that the topic has at the start."""
        ...


@dataclass(frozen=True, slots=True)
class ListedDeadLetter:
    """A dead letter, whether it was redriven, and the reason why it was dropped (None when it was not)."""

    dead_letter: DeadLetter
    redriven: bool
    dropped: str | None = None

    @property
    def open(self) -> bool:
        """Whether it was neither redriven nor dropped."""
        return not self.redriven and self.dropped is None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Accepts dead letters with this topic, reason and group; None accepts any. Only open ones unless `closed`."""

    topic: str | None = None
    reason: str | None = None
    group: str | None = None
    closed: bool = False

    def __call__(self, listed: ListedDeadLetter) -> bool:
        """Whether the filter accepts this dead letter."""
        dead_letter = listed.dead_letter
        return (
            (self.topic is None or dead_letter.source_topic == self.topic)
            and (self.reason is None or dead_letter.reason == self.reason)
            and (self.group is None or dead_letter.group == self.group)
            and (self.closed or listed.open)
        )


class DeadLetters:
    """The dead-letter topic as a list. Reads the whole topic for each call: it is meant to be short."""

    def __init__(self, reader: TopicReader, *, topic: str, known_topics: Iterable[str]) -> None:
        """`known_topics` are the topics that a dead letter may be sent to again."""
        self._reader = reader
        self._topic = topic
        self._known_topics = frozenset(known_topics)

    async def list(
        self, accepts: Callable[[ListedDeadLetter], bool] = DeadLetterFilter(), *, bodies: bool = True
    ) -> list[ListedDeadLetter]:
        """Return the accepted dead letters, oldest first, each once. Skips records that are no dead letters.

        Without `bodies`, leaves out values and headers, so that a long list takes little memory.
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
        """Yield these dead letters with values and headers, in the order of the topic."""
        left = set(ids)
        async for record in self._reader.read(self._topic):
            if (dead_letter := _decoded(record)) is not None and dead_letter.id in left:
                left.discard(dead_letter.id)
                yield dead_letter

    async def find(self, id: str) -> ListedDeadLetter:
        """Return the dead letter with this id, or the only one whose id begins so, without its body.

        Raises NotFound when there is none, and Refused when several ids begin so.
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
        """Send the original message to its topic again, then mark the dead letter as redriven.

        After a crash in between it may be sent twice, which handlers tolerate. Raises Refused when the message cannot
        or must not be sent to its topic, and Unavailable.
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
        """Mark the dead letter as given up, with the reason. Its record stays in the topic. Raises Unavailable."""
        await producer.send([codec.dropped_marker(self._topic, dead_letter.id, reason)])


def _decoded(record: Inbound) -> DeadLetter | None:
    try:
        return codec.read(record)
    except BadMessage:
        return None


async def restored(dead_letter: DeadLetter, objects: ObjectStore | None) -> DeadLetter:
    """Return the dead letter with what the object store holds of it.

    Raises Refused when that is needed and there is no store, and Fault when the store's bytes have another digest.
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
