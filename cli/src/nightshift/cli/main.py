"""The `nightshift` command: lists its subcommands, and turns an error into a message and an exit code.

Subcommands are named by import string and loaded when they are used, so that `--help` is quick.
"""

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

import cyclopts

from nightshift.cli.errors import WrongUsage
from nightshift.cli.exits import Exit
from nightshift.cli.output import discard, ready_streams, report_error
from nightshift.contracts.errors import ContractError
from nightshift.eventlog.errors import ConfigurationError, NightshiftError, NotFound

_HELP = """Autonomous coding agents as event-sourced services.

Give an idea, go to sleep, wake up to a running app.
"""

_EPILOGUE = """Data goes to stdout, progress and errors to stderr; every command takes --json.

Exit codes: 0 done, 1 error, 2 usage, 3 build failed, 4 access or configuration, 5 not found,
6 wait timed out, 7 asleep, 8 cancelled, 130 interrupted.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: `app` of module `nightshift.cli.commands.<name>`, its group and its line in the overview."""

    name: str
    group: cyclopts.Group
    help: str

    @property
    def module(self) -> str:
        return f"nightshift.cli.commands.{self.name}"


_BUILDS = cyclopts.Group("Builds", sort_key=1)
_ACCOUNTS = cyclopts.Group("Accounts", sort_key=2)
_LOCAL = cyclopts.Group("Local stack", sort_key=3)
_OPERATIONS = cyclopts.Group("Operations", sort_key=4)

COMMANDS = (
    Command("build", _BUILDS, "Ask for a build: from a file with the idea, or from a sentence."),
    Command("builds", _BUILDS, "List builds, newest first, with what each does or waits for."),
    Command("watch", _BUILDS, "Follow a build: phases, tool calls, money, sleep, preview."),
    Command("wait", _BUILDS, "Wait until a build is ready, asleep, or in a phase."),
    Command("log", _BUILDS, "Print the events of a build."),
    Command("replay", _BUILDS, "Print what a build did, turn by turn, from its events."),
    Command("questions", _BUILDS, "List what builds ask you, with the command that answers."),
    Command("answer", _BUILDS, "Answer a question of a build."),
    Command("tell", _BUILDS, "Send a message to the agent of a build."),
    Command("pause", _BUILDS, "Stop a build for now; nothing is lost."),
    Command("resume", _BUILDS, "Let a paused build go on."),
    Command("limits", _BUILDS, "Raise a build's limits of turns and tool calls."),
    Command("cancel", _BUILDS, "Stop a build; its events and files are kept."),
    Command("wake", _BUILDS, "Wake a sleeping build now."),
    Command("account", _ACCOUNTS, "Open accounts, set their budgets, top them up, show them."),
    Command("demo", _LOCAL, "Watch an agent build an app on a stack of its own, with a sleep."),
    Command("up", _LOCAL, "Start the whole stack on this machine and keep it running."),
    Command("ps", _LOCAL, "Show the processes of a stack, their addresses and restarts."),
    Command("down", _LOCAL, "Stop a stack that runs in the background."),
    Command("doctor", _OPERATIONS, "Check everything that builds need, and say how to fix what fails."),
    Command("db", _OPERATIONS, "Migrate the event log's database, and show its migrations."),
    Command("topics", _OPERATIONS, "Create the topics on the broker, or show what would change."),
    Command("dlq", _OPERATIONS, "List dead letters, redrive them to their topics, drop them."),
)


def build_app(used: str | None = None) -> cyclopts.App:
    """Makes the root command with every subcommand. Loads only the one that is `used`."""
    app = cyclopts.App(
        name="nightshift",
        help=_HELP,
        help_epilogue=_EPILOGUE,
        help_format="markdown",
        version=lambda: version("nightshift-cli"),
        suppress_keyboard_interrupt=False,
    )
    for place, command in enumerate(COMMANDS):
        if command.name == used:
            app.command(_load(command), name=command.name)
            continue
        app.command(
            f"{command.module}:app",
            name=command.name,
            help=command.help,
            group=command.group,
            sort_key=place,
        )
    return app


def _load(command: Command) -> cyclopts.App:
    """Loads a subcommand. Its help is its docstring with the examples, not its line in the overview."""
    app: cyclopts.App = import_module(command.module).app
    if app.default_command is not None:
        app.help = None
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (default: that of this process) and returns its exit code. Never raises."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app = build_app(next((word for word in words if not word.startswith("-")), None))
        result = app(words, print_error=False, exit_on_error=False, result_action="return_value")
        sys.stdout.flush()
        return _exit_code(result)
    except cyclopts.CycloptsError as error:
        error.verbose = False
        report_error(str(error), f"`{_command_line(error)} --help` shows how to use it, with examples")
        return Exit.USAGE
    except NightshiftError as error:
        report_error(str(error), error.hint)
        return _code_of(error)
    except ContractError as error:
        report_error(str(error))
        return Exit.ERROR
    except KeyboardInterrupt:
        report_error("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has exited (`nightshift … | head`): stop without a message.
        discard(sys.stdout)
        return Exit.ERROR
    except Exception as error:  # noqa: BLE001 - the boundary of the process: print the stack, then one line
        traceback.print_exc()
        report_error(
            f"{type(error).__name__}: {error}",
            "this is a fault in nightshift: please report it with the lines above",
        )
        return Exit.ERROR


def main() -> None:
    """The entry point of the `nightshift` script."""
    ready_streams()
    sys.exit(run())


def _exit_code(result: Any) -> int:
    """Converts what a command returned: an exit code, or None for success."""
    return Exit.OK if result is None else int(result)


def _code_of(error: NightshiftError) -> Exit:
    match error:
        case WrongUsage():
            return Exit.USAGE
        case ConfigurationError():
            return Exit.CONFIGURATION
        case NotFound():
            return Exit.NOT_FOUND
        case _:
            return Exit.ERROR


def _command_line(error: cyclopts.CycloptsError) -> str:
    return " ".join(["nightshift", *(error.command_chain or ())])
