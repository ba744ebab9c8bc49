"""The bus's Prometheus metrics. Build and account ids are never labels, because their number is unbounded."""

from prometheus_client import Counter, Gauge

DEAD_LETTERS = Counter(
    "nightshift_dead_letters", "Messages parked in the dead-letter topic.", ["topic", "reason"]
)
HANDLED = Counter("nightshift_messages_handled", "Messages a handler took note of.", ["topic", "group"])
SKIPPED = Counter(
    "nightshift_messages_skipped",
    "Messages passed over: not cared for, or told before.",
    ["topic", "group", "why"],
)
RETRIED = Counter("nightshift_messages_retried", "Further attempts at a message.", ["topic", "group", "why"])
PAUSED = Gauge(
    "nightshift_partitions_paused",
    "Partitions that wait for room, a retry or the ground.",
    ["topic", "group"],
)
LAG = Gauge(
    "nightshift_consumer_lag",
    "Messages between what is handled and the end, as last fetched.",
    ["topic", "group"],
)
