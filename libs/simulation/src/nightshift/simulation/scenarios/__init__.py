"""What is simulated: each module sets up a small world around one port and judges what happened there."""

_HERE = "nightshift.simulation.scenarios"

#: Name → import string.
SCENARIOS = {
    "log": f"{_HERE}.log:scenario",
    "bus": f"{_HERE}.bus:scenario",
    "leases": f"{_HERE}.leases:scenario",
}
