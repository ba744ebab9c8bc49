"""The Prometheus metrics of the relay, by group of shards."""

from prometheus_client import Counter, Gauge

LAG_EVENTS = Gauge("nightshift_relay_lag_events", "Events in the log that are not published yet.", ["group"])
LAG_SECONDS = Gauge("nightshift_relay_lag_seconds", "Age of the oldest event not published yet.", ["group"])
PUBLISHED = Counter("nightshift_relay_published", "Events the broker acknowledged.", ["group"])
REPUBLISHED = Counter(
    "nightshift_relay_republished", "Events sent again because the broker lost its data.", ["group"]
)
LEADER = Gauge(
    "nightshift_relay_leader", "1 where this process leads the group, 0 where it stands by.", ["group"]
)
LOSSES = Counter("nightshift_relay_broker_losses", "Times the broker was found to have lost data.", ["group"])
