"""The `nightshift` command: finds the subcommand, and turns errors into a message and an exit code.

A subcommand is imported only when it is used, so that `--help` is quick.
"""

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

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
6 wait timed out, 7 asleep, 8 cancelled, 9 differs from the log, 130 interrupted.
"""


_CODES = {WrongUsage: Exit.USAGE, ConfigurationError: Exit.CONFIGURATION, NotFound: Exit.NOT_FOUND}

#: Help group → subcommand → its line in the overview. A subcommand is the `app` of nightshift.cli.commands.<name>.
COMMANDS = {
    "Builds": {
        "build": "Ask for a build: from a file with the idea, or from a sentence.",
        "builds": "List builds, newest first, with what each does or waits for.",
        "watch": "Follow a build: phases, tool calls, money, sleep, preview.",
        "wait": "Wait until a build is ready, asleep, or in a phase.",
        "log": "Print the events of a build.",
        "replay": "Play what a build did, show any moment of it, or write it as a page.",
        "fork": "Start new builds from the end of a turn of another one.",
        "rewind": "Set a stopped build back to the end of an earlier turn.",
        "compare": "Set builds side by side: outcome, cost, turns, files.",
        "snapshots": "List the snapshots of a build, with the turn that each holds.",
        "files": "List or write the files of a build at any moment.",
        "diff": "Print what changed in the files of a build between two moments.",
        "open": "Show the app of a build, from a snapshot when its sandbox is gone.",
        "questions": "List what builds ask you, with the command that answers.",
        "answer": "Answer a question of a build.",
        "approve": "Let a tool call run that waits for your approval.",
        "deny": "Deny a tool call that waits for your approval, and say why.",
        "tell": "Send a message to the agent of a build.",
        "pause": "Stop a build for now; nothing is lost.",
        "resume": "Let a paused build go on.",
        "network": "Show which hosts a build reached and which it was refused.",
        "limits": "Set a build's limits of turns and tool calls.",
        "cancel": "Stop a build; its events and files are kept.",
        "wake": "Wake a sleeping build now.",
    },
    "Accounts": {
        "account": "Open accounts, set their budgets, top them up, show them.",
        "secrets": "Store, list and remove the secrets that builds may name.",
    },
    "Local stack": {
        "demo": "Watch an agent build an app on a stack of its own, with a sleep.",
        "up": "Start the whole stack on this machine and keep it running.",
        "ps": "Show the processes of a stack, their addresses and restarts.",
        "down": "Stop a stack that runs in the background.",
    },
    "Operations": {
        "service": "Run one service of an installation in the foreground.",
        "doctor": "Check everything that builds need, and say how to fix what fails.",
        "status": "Show replicas with versions, work in hand, leases, lag and dead letters.",
        "drain": "Let a service finish its work and take no more, or end that.",
        "db": "Migrate the event log's database, and show its migrations.",
        "topics": "Create the topics on the broker, or show what would change.",
        "verify": "Make the decisions of builds again, and name the first that differs.",
        "redrive": "Run the tool calls of a build again in a fresh sandbox.",
        "rehearse": "List the unfinished builds that this release would treat differently.",
        "republish": "Publish facts of builds to Kafka again, marked as replayed.",
        "export": "Write a build into one archive, with or without its texts.",
        "import": "Read an archive of a build into this installation, as history.",
        "gc": "Delete snapshots that no rule keeps, and contents that no snapshot needs.",
        "dlq": "List dead letters, redrive them to their topics, drop them.",
    },
}
#: The names of all subcommands, in the order of the overview.
NAMES = tuple(name for commands in COMMANDS.values() for name in commands)
_GROUPS = {title: cyclopts.Group(title, sort_key=place) for place, title in enumerate(COMMANDS)}


def build_app(used: str | None = None) -> cyclopts.App:
    """Returns the root command with all subcommands. Imports only the subcommand `used`; of the others it knows the
    names.
    """
    app = cyclopts.App(
        name="nightshift",
        help=_HELP,
        help_epilogue=_EPILOGUE,
        help_format="markdown",
        version=lambda: version("nightshift-cli"),
        suppress_keyboard_interrupt=False,
    )
    for title, commands in COMMANDS.items():
        for name, line in commands.items():
            module = f"nightshift.cli.commands.{name}"
            if name == used:
                app.command(_load(module), name=name)
            else:
                app.command(
                    f"{module}:app", name=name, help=line, group=_GROUPS[title], sort_key=NAMES.index(name)
                )
    return app


def _load(module: str) -> cyclopts.App:
    """Imports the module of a subcommand and returns its app, whose `--help` shows the subcommand's docstring."""
    app: cyclopts.App = import_module(module).app
    if app.default_command is not None:
        app.help = None
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (default: that of this process) and returns its exit code. Never raises."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app = build_app(next((word for word in given if not word.startswith("-")), None))
        result = app(given, print_error=False, exit_on_error=False, result_action="return_value")
        sys.stdout.flush()
        return Exit.OK if result is None else int(result)
    except cyclopts.CycloptsError as error:
        error.verbose = False
        words = " ".join(["nightshift", *(error.command_chain or ())])
        report_error(str(error), f"`{words} --help` shows how to use it, with examples")
        return Exit.USAGE
    except NightshiftError as error:
        report_error(str(error), error.hint)
        return next((code for kind, code in _CODES.items() if isinstance(error, kind)), Exit.ERROR)
    except ContractError as error:
        report_error(str(error))
        return Exit.ERROR
    except KeyboardInterrupt:
        report_error("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has exited, as in `nightshift … | head`. Stop without a message.
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
    """Runs the `nightshift` script and exits with its exit code."""
    ready_streams()
    sys.exit(run())
