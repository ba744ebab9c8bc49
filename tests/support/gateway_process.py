"""Runs a gateway in a process that was forked from one with its modules loaded: it starts in a tenth of the time."""

import os
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "__main__",
        "tests.support.gateway_process",
        "nightshift.sandbox_gateway.app",
        "nightshift.sandboxes.adapters.e2b",
    ]
)


def start(environment: Mapping[str, str], log: str) -> BaseProcess:
    """Start a gateway with this environment. It appends what it writes to the file `log`."""
    process = _CONTEXT.Process(target=_run, args=(dict(environment), log))
    process.start()
    return process


def _run(environment: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    from nightshift.sandbox_gateway.app import main

    main()
