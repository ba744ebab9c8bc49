"""Starts the `nightshift` command. Ctrl-C while modules are imported prints one line instead of a stack trace."""

import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command: the entry point of the `nightshift` script and of `python -m nightshift.cli`."""
    try:
        from nightshift.cli.main import main as start  # noqa: PLC0415 - it is the loading that is guarded

        start()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
