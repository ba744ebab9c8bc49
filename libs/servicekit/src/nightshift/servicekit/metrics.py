"""The service kit's Prometheus metrics. Build and account ids are never labels, because their number is unbounded."""

from prometheus_client import Gauge

IN_FLIGHT = Gauge("nightshift_work_in_flight", "Keyed work that runs or waits in a worker pool.", ["pool"])
