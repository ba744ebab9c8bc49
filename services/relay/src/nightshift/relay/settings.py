"""The settings of the relay, in addition to those of every service."""

from pydantic import Field

from nightshift.relay.usecases.shard_group import GroupConfig
from nightshift.servicekit.settings import SettingsWithoutStore, without_store


class RelaySettings(SettingsWithoutStore):
    """Settings of the relay, from `NIGHTSHIFT_RELAY_…`. Times are in seconds."""

    # Must be the same on every replica. With more than one group, the replicas share the work.
    relay_groups: int = Field(1, ge=1, le=64)
    relay_leader_timeout_s: float = Field(5.0, ge=0.5, le=60)  # a leader that hangs longer loses its locks
    # Between two attempts of a stand-by to become the leader.
    relay_stand_by_s: float = Field(0.25, gt=0, le=10)
    # When a send takes longer, the relay opens a new session, checks the broker and sends the batch again.
    relay_ack_timeout_s: float = Field(5.0, ge=0.5, le=60)
    relay_inline_bytes: int = Field(262_144, ge=8192)  # a larger message has its data in the object store
    # The most events that are read and published at once.
    relay_batch_events: int = Field(2000, ge=1, le=20_000)
    # The most bytes that are read and published at once.
    relay_batch_bytes: int = Field(4_194_304, ge=65_536)
    relay_create_topics: bool = False  # create missing topics, also when the broker lost its data
    relay_topic_partitions: int | None = Field(
        None, ge=1
    )  # of topics that the relay creates; None: those of the default plan
    # Copies of topics that the relay creates. None: as planned.
    relay_topic_replication: int | None = Field(None, ge=1)
    # The token in a `log.diverged` message, to accept that divergence.
    relay_accept_divergence: str | None = None

    def group(self) -> GroupConfig:
        """Return the configuration that all groups of shards share."""
        return GroupConfig(
            topics=self.topics,
            groups=self.relay_groups,
            # Without an object store every message carries its data; few are larger than `relay_inline_bytes`.
            inline_bytes=self.kafka_max_message_bytes if without_store(self) else self.relay_inline_bytes,
            accept_divergence=self.relay_accept_divergence,
            max_events=self.relay_batch_events,
            max_bytes=self.relay_batch_bytes,
            heartbeat_s=self.relay_leader_timeout_s / 5,
            stand_by_s=self.relay_stand_by_s,
        )
