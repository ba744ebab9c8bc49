"""Prometheus metrics of every service. Build and account ids are never labels, because their number is unbounded."""

from prometheus_client import Counter, Gauge, Histogram

INFO = Gauge("nightshift_info", "1, with the version of this process.", ["service", "version"])
LOOP_LAG = Histogram(
    "nightshift_loop_lag_seconds",
    "How late a timer of the event loop fired, once a second.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LOOP_STALLS = Counter("nightshift_loop_stalls", "Timers of the event loop that fired more than 100 ms late.")
LEASES_LOST = Counter("nightshift_leases_lost", "Leases that another replica took while this one worked.")

TURNS = Counter("nightshift_turns", "Turns of builds that ended with a checkpoint.")
BUILDS_ENDED = Counter("nightshift_builds_ended", "Builds that ended.", ["outcome"])
MODEL_CALLS = Counter("nightshift_model_calls", "Model calls that ended.", ["model", "outcome"])
MODEL_TOKENS = Counter("nightshift_model_tokens", "Tokens that the provider counted.", ["kind", "model"])
SPEND = Counter("nightshift_spend_dollars", "What model calls have cost.", ["model"])
DENIALS = Counter("nightshift_budget_denials", "Requests for money that were denied.")
SNAPSHOTS_FAILED = Counter(
    "nightshift_snapshots_failed", "Snapshots given up after their last attempt.", ["reason"]
)
WAKES = Counter("nightshift_wakes", "Wakes of sleeping builds.", ["reason"])
