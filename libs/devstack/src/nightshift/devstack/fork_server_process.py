"""The process that `ForkServer` starts. It imports the code of the services once, and forks itself for each service.

It reads a JSON object per line, `{"module", "env", "log", "parent", "death_signal"}`, and answers `{"pid"}`. Each
service is forked twice. The process in the middle exits, so the supervisor of the stack adopts the service as its own
child. The supervisor can then wait for the service, and the kernel can end the service together with the supervisor.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import sys
import time
import traceback
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_ADOPTED_WITHIN = 5.0  # seconds


def main() -> None:
    """Import the modules that the command line names. Then fork a service for each line of stdin, until stdin
    closes.
    """
    for module in sys.argv[1:]:
        try:
            importlib.import_module(module)
        except Exception:  # noqa: BLE001 - the service that needs it fails with the same error in its own log
            traceback.print_exc()
    gc.collect()
    gc.freeze()  # garbage collections in the forks skip loaded objects, so their memory stays shared
    for line in sys.stdin:
        request = json.loads(line)
        pid = _fork_twice()
        if pid == 0:
            _become(request)
            return
        sys.stdout.write(json.dumps({"pid": pid}) + "\n")
        sys.stdout.flush()


def _fork_twice() -> int:
    """Fork a grandchild whose parent exits. Returns the grandchild's process id, and 0 in the grandchild."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        grandchild = os.fork()
        if grandchild == 0:
            os.close(writing)
            return 0
        os.write(writing, str(grandchild).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, encoding="utf-8") as written:
        return int(written.read())


def _become(request: dict[str, Any]) -> None:
    """Run the requested service in this process, as `python -m MODULE` would.

    Returns or raises SystemExit as the service does.
    """
    module: str = request["module"]
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for descriptor, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, place)
    os.close(nothing)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["env"])
    _die_with(request["parent"], request["death_signal"], name=module.rpartition(".")[2])
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _die_with(parent: int, number: int, *, name: str) -> None:
    """Wait until the supervisor (`parent`) has adopted this process. Exits when that takes too long.

    Then have the kernel send signal `number` to this process when the supervisor dies. `name` is the process's new
    name.
    """
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    deadline = time.monotonic() + _ADOPTED_WITHIN
    while os.getppid() != parent:
        if time.monotonic() > deadline:
            sys.exit("the supervisor has died")
        time.sleep(0.0005)
    prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the supervisor has died")


if __name__ == "__main__":
    main()
