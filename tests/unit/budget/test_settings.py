"""What of the budget's settings is looked at before anything starts."""

import pytest

from nightshift.budget.settings import BudgetSettings
from nightshift.eventlog.errors import ConfigurationError


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "Europe", "", "../UTC"])
def test_a_time_zone_that_is_none_is_named_at_the_start(monkeypatch, zone):
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_DSN", "postgresql://nobody@127.0.0.1/none")
    monkeypatch.setenv("NIGHTSHIFT_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="NIGHTSHIFT_BUDGET_DEFAULT_TIME_ZONE"):
        BudgetSettings.load(budget_default_time_zone=zone)
