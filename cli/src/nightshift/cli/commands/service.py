"""`nightshift service`: runs one service of an installation in the foreground, as images and units do."""

import os
import sys
from typing import Annotated

import cyclopts

from nightshift.cli.connect import Json
from nightshift.cli.errors import WrongUsage
from nightshift.devstack.stack.plan import SERVICES, is_installed, service_name
from nightshift.eventlog.errors import ConfigurationError

app = cyclopts.App(name="service")

#: Public name → module, such as `sandbox-gateway` → `sandbox_gateway`.
_MODULES = {service_name(module): module for module in SERVICES}


@app.default
def service(
    name: Annotated[str, cyclopts.Parameter(help=f"The service: {', '.join(_MODULES)}.")],
    /,
    *,
    json: Json = False,
) -> None:
    """Run a service until SIGTERM. It reads its settings from NIGHTSHIFT_ variables and logs to stderr.

    The service replaces this process: signals reach it directly, and its exit code is the command's. The code is 0
    after SIGTERM, 1 after a failure, 4 when a setting is missing or wrong. With --json every line of the log is JSON.

    For example:

        nightshift service orchestrator
    """
    module = _MODULES.get(name)
    if module is None:
        raise WrongUsage(f"there is no service {name!r}", hint=f"known are {', '.join(_MODULES)}")
    if not is_installed(module):
        raise ConfigurationError(f"the service {name} is not installed", hint=f"install nightshift-{name}")
    environment = {**os.environ, "NIGHTSHIFT_LOG_FORMAT": "json"} if json else os.environ
    os.execve(sys.executable, [sys.executable, "-m", f"nightshift.{module}"], environment)  # noqa: S606 - no shell
