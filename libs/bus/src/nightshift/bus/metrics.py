"""The Prometheus metrics of the bus. No label contains a build or account id, because their number is unbounded."""

from prometheus_client import Counter, Gauge

DEAD_LETTERS = Counter(
    "nightshift_dead_letters", "Messages published to the dead-letter topic.", ["topic", "reason"]
)
HANDLED = Counter("nightshift_messages_handled", "Messages that a handler handled.", ["topic", "group"])
SKIPPED = Counter(
    "nightshift_messages_skipped",
    "Messages skipped: no handler for the type, or handled before.",
    ["topic", "group", "why"],
)
RETRIED = Counter("nightshift_messages_retried", "Further attempts at a message.", ["topic", "group", "why"])
PAUSED = Gauge(
    "nightshift_partitions_paused",
    "Partitions that wait for room, a retry or a dependency.",
    ["topic", "group"],
)
LAG = Gauge(
    "nightshift_consumer_lag",
    "Messages between the handled ones and the end, at the last fetch.",
    ["topic", "group"],
)
