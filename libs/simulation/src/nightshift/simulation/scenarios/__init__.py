"""The built-in scenarios. Each module builds a small world around one port and checks its invariants."""

_HERE = "nightshift.simulation.scenarios"

#: Scenario name → import string.
SCENARIOS = {
    "log": f"{_HERE}.log:scenario",
    "bus": f"{_HERE}.bus:scenario",
    "leases": f"{_HERE}.leases:scenario",
}
