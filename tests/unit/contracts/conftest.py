"""Hypothesis measures the machine's load otherwise: no limit per example, and slow drawing is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "contracts", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("contracts")
