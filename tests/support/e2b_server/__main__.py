"""`python -m tests.support.e2b_server --port 8585`: the E2B server as a process of its own, for tests on Kubernetes."""

import argparse
import asyncio
import signal
from pathlib import Path

from tests.support.e2b_server import E2BServer


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8585)
    parser.add_argument("--state", type=Path, default=Path("/var/lib/nightshift/e2b"))
    given = parser.parse_args()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with E2BServer(given.state, host=given.host, port=given.port):
        await stopped.wait()


asyncio.run(main())
