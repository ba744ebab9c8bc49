"""What every command line has in common: outcomes become exit codes, errors two lines on stderr, help comes quickly."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import cyclopts
import pytest

from nightshift.cli import main as entry
from nightshift.cli.exits import Exit
from nightshift.contracts.errors import UnknownModel
from nightshift.eventlog.errors import ConfigurationError, Fault, NotFound, Unavailable


@pytest.fixture
def command(monkeypatch):
    """Runs a command line against a root command whose only subcommand `act` does what the test says."""

    def run(act, *arguments: str) -> int:
        app = cyclopts.App(name="nightshift", suppress_keyboard_interrupt=False)
        app.command(act, name="act")
        monkeypatch.setattr(entry, "build_app", lambda used=None: app)
        return entry.run(["act", *arguments])

    return run


def raising(error: BaseException):
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("no key", hint="set it"), Exit.CONFIGURATION),
        (NotFound("no build b1", hint="set it"), Exit.NOT_FOUND),
        (Unavailable("PostgreSQL does not answer", hint="set it"), Exit.ERROR),
        (Fault("a promise is broken", hint="set it"), Exit.ERROR),
    ],
)
def test_an_error_is_two_lines_and_an_exit_code(command, capfd, error, code):
    assert command(raising(error)) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"error: {error}\nhint: set it\n"


def test_a_contract_error_is_printed_without_a_stack(command, capfd):
    assert command(raising(UnknownModel("no price for model x"))) == Exit.ERROR
    assert capfd.readouterr().err == "error: no price for model x\n"


def test_an_error_is_one_line_without_escapes(command, capfd):
    assert command(raising(NotFound("no\nbuild \x1b[31mred\x1b[0m"))) == Exit.NOT_FOUND
    assert capfd.readouterr().err == "error: no build red\n"


def test_an_unknown_exception_shows_its_stack_and_exits_1(command, capfd):
    assert command(raising(ZeroDivisionError("oops"))) == Exit.ERROR
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "error: ZeroDivisionError: oops\nhint: " in err


def test_an_interrupt_exits_130(command, capfd):
    assert command(raising(KeyboardInterrupt())) == Exit.INTERRUPTED
    assert "error: interrupted" in capfd.readouterr().err


_INTERRUPTED_WHILE_LOADING = """
import sys
class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "nightshift.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from nightshift.cli.__main__ import main
main()
"""


def test_an_interrupt_during_loading_exits_130():
    command = [sys.executable, "-c", _INTERRUPTED_WHILE_LOADING]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("arguments", [("--bogus",), ("one", "too", "many")])
def test_wrong_usage_exits_2_and_names_the_help(command, capfd, arguments):
    assert command(lambda: None, *arguments) == Exit.USAGE
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[1] == "hint: `nightshift act --help` shows how to use it, with examples"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (Exit.ASLEEP, 7), (Exit.BUILD_FAILED, 3)])
def test_the_return_value_of_a_command_is_the_exit_code(command, returned, code):
    assert command(lambda: returned) == code


def test_an_async_command_runs(command, capfd):
    async def act() -> Exit:
        return Exit.CANCELLED

    assert command(act) == 8


def test_an_unknown_command_is_wrong_usage(capfd):
    assert entry.run(["no-such-command"]) == Exit.USAGE
    assert "no-such-command" in capfd.readouterr().err


def test_the_overview_names_every_command_and_loads_none():
    script = (
        "import sys\n"
        "from nightshift.cli.main import run\n"
        "run(['--help'])\n"
        "heavy = ['asyncpg', 'aiokafka', 'faststream', 'boto3', 'anthropic', 'nightshift.devstack.parts']\n"
        "print([name for name in sys.modules if name in heavy or name.startswith('nightshift.cli.commands.')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name in entry.NAMES:
        assert f" {name} " in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def command_lines() -> Iterator[list[str]]:
    """Every command, and every subcommand of those that have some."""
    for name in entry.NAMES:
        app = import_module(f"nightshift.cli.commands.{name}").app
        below = [word for word in app if not word.startswith("-") and app[word].show]
        yield from ([name, word] for word in below) if app.default_command is None else [[name]]


@pytest.mark.parametrize("words", list(command_lines()), ids=" ".join)
def test_every_help_has_an_example_and_explains_each_option(words, capfd):
    assert entry.run([*words, "--help"]) == Exit.OK
    help_text = capfd.readouterr().out
    assert "--json" in help_text
    assert f"nightshift {' '.join(words)}" in help_text.split("Usage:", 1)[1].split("\n", 1)[1]
    function = import_module(f"nightshift.cli.commands.{words[0]}").app
    for word in words[1:]:
        function = function[word]
    for argument in function.assemble_argument_collection(parse_docstring=True):
        assert argument.parameter.help, f"{argument.name} has no explanation"
        assert "empty" not in "".join(argument.negatives)


def test_the_version_is_that_of_the_distribution(capfd):
    assert entry.run(["--version"]) == Exit.OK
    assert capfd.readouterr().out == "0.1.0\n"


@pytest.mark.parametrize(
    "words",
    [
        ("build",),
        ("build", "idea.yaml", "--idea", "a page"),
        ("builds", "--status", "tired"),
        ("builds", "--limit", "0"),
        ("watch",),
        ("wait", "b1", "--for", "lunch"),
        ("wait", "b1", "--for", "phase=lunch"),
        ("wait", "b1", "--timeout", "soon"),
        ("log", "b1", "--after", "some"),
        ("replay",),
        ("cancel",),
        ("wake",),
        ("account", "list-all"),
        ("account", "open", "ada", "much"),
        ("account", "open", "ada", "-5"),
        ("account", "top-up", "ada", "0"),
        ("account", "budget", "ada", "0.0000001"),
        ("up", "--replicas", "relay=two"),
        ("up", "--only", "moon"),
        ("demo", "--keep=perhaps"),
        ("dlq", "redrive"),
        ("topics", "paint"),
        ("db", "drop"),
        ("ps", "extra"),
        ("down", "--force"),
        ("doctor", "--cure"),
        ("files",),
        ("diff", "b1", "turn:1"),
        ("gc", "--keep-last", "-1"),
    ],
)
def test_a_wrong_argument_exits_2_before_anything_is_done(words, capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "none"))
    assert entry.run(words) == Exit.USAGE
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "\nhint: " in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1 2"])
def test_a_stream_that_the_shell_closed_changes_nothing(closed):
    """Also not what is opened next: it must not get the number of a standard stream."""
    program = (
        "import sys; from nightshift.cli import main as entry; from nightshift.cli.exits import Exit\n"
        "def run():\n"
        "    print('to nobody'); print('to nobody', file=sys.stderr); sys.stdin.read()\n"
        "    return 9 if open(sys.executable, 'rb').fileno() > 2 else 1\n"
        "entry.run = run\n"
        "entry.main()\n"
    )
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirections}', sys.executable, program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 9, done.stderr


def test_a_character_missing_in_the_locale_is_replaced():
    program = (
        "from nightshift.cli import main as entry, output\n"
        "entry.run = lambda: output.write_line('na\u00efve \u65e5')\n"
        "entry.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
        timeout=50,
    )
    assert done.stdout == b"na?ve ?\n"
