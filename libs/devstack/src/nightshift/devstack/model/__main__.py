"""`python -m nightshift.devstack.model --scenario FILE --port P`: the scripted model as a process of its own."""

import argparse
import json
import sys
from pathlib import Path

import uvicorn

from nightshift.devstack.errors import BadScenario
from nightshift.devstack.model.request_log import RequestLog
from nightshift.devstack.model.scenario import Scenario, load_scenario
from nightshift.devstack.model.server import ModelServer
from nightshift.devstack.ports import LOOPBACK


def main() -> None:
    """Load the scenario and serve until a signal arrives."""
    parser = argparse.ArgumentParser(prog="python -m nightshift.devstack.model", description=__doc__)
    parser.add_argument("--scenario", type=Path, help="scenario file; default: the built-in scenario")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on; it checks no key")
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument(
        "--request-log", type=Path, help="append every request to this file, one JSON object a line"
    )
    parser.add_argument("--check", action="store_true", help="only check the scenario and print its mistakes")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of scenario files")
    args = parser.parse_args()
    if args.schema:
        sys.stdout.write(json.dumps(Scenario.model_json_schema(), indent=2) + "\n")
        return
    try:
        scenario = load_scenario(args.scenario)
    except BadScenario as error:
        sys.exit(f"error: {error}")
    if args.check:
        sys.stdout.write(f"{scenario.name}: {len(scenario.turns)} turns\n")
        return
    config = uvicorn.Config(
        ModelServer(scenario, RequestLog(args.request_log)),
        host=args.host,
        port=args.port,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
