"""The entry point of the agent program: `serve` runs as process 1 behind a socket, and `once` answers one request from
files.

Each mode imports only its own modules, to start quickly: `once` starts for each request, and whoever creates a sandbox
waits for `serve`.
"""

from __future__ import annotations


def main(argv: list[str]) -> None:
    """Run the mode that the arguments name.

    The arguments are `serve HOME OWN-DIRECTORY FD LIMITS-JSON`, or `once HOME ANSWER-PATH BODY-PATH PARTS`.
    """
    if argv[0] == "serve":
        from .server import main as serve  # noqa: PLC0415

        serve(argv[1:])
    else:
        from .once import once  # noqa: PLC0415

        once(*argv[1:])
