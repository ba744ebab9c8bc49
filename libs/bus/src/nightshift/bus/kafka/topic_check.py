"""Finds out which topics are missing at a broker, so that a service exits with that error instead of waiting
silently.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from nightshift.bus.kafka import internals
from nightshift.bus.kafka.credentials import CREDENTIALS_REFUSED, connection_arguments, refusal
from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import ConfigurationError, Unavailable

_ANSWER_S = 10.0
#: Seconds for which to wait until another process, such as a container that starts now, has created the topics.
_APPEAR_S = 15.0
_LOOK_S = 0.5


async def require_topics(settings: KafkaSettings, topics: Iterable[str]) -> None:
    """Wait until the broker has all these topics.

    Raises ConfigurationError when some are still missing after 15 s, or when the broker refuses the credentials. Raises
    Unavailable when the broker does not answer.
    """
    wanted, loop = set(topics), asyncio.get_running_loop()
    until = loop.time() + _APPEAR_S
    while missing := wanted - await _topics(settings):
        if loop.time() >= until:
            raise ConfigurationError(
                f"the broker has no topic {', '.join(sorted(missing))}, or its ACLs hide them from this user",
                hint="`nightshift topics apply` creates them; see that NIGHTSHIFT_TOPIC_PREFIX is the installation's",
            )
        await asyncio.sleep(_LOOK_S)


async def _refused_by(settings: KafkaSettings) -> BaseException | None:
    """Connect to the first broker that answers. Returns its error when it refuses the credentials, otherwise None."""
    arguments = connection_arguments(settings)
    for address in arguments.pop("bootstrap_servers"):
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(_ANSWER_S):
                await internals.connect_once(host, int(port), arguments)
        except CREDENTIALS_REFUSED as error:
            return error
        except (KafkaError, TimeoutError, OSError, ValueError):
            continue
        return None
    return None


async def _topics(settings: KafkaSettings) -> set[str]:
    """Return the names of all topics that this user may see."""
    client = AIOKafkaConsumer(**connection_arguments(settings), client_id="nightshift-topic-check")
    try:
        async with asyncio.timeout(_ANSWER_S):
            await client.start()
            return await internals.all_topics(client)
    except CREDENTIALS_REFUSED as error:
        raise refusal(error) from error
    except (KafkaError, TimeoutError, OSError) as error:
        # The client logs why no broker accepts it, and raises that none was reached.
        if (cause := await _refused_by(settings)) is not None:
            raise refusal(cause) from cause
        raise Unavailable(f"the broker does not say which topics it has: {error!r}") from error
    finally:
        with suppress(KafkaError, TimeoutError, OSError):
            async with asyncio.timeout(_ANSWER_S):
                await client.stop()
