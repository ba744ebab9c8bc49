"""The entry point of the `nightshift` command. An interrupt while its modules load prints one line, not a stack."""

import sys

_INTERRUPTED = 130


def main() -> None:
    """The entry point of the `nightshift` script, and of `python -m nightshift.cli`."""
    try:
        from nightshift.cli.main import main as start  # noqa: PLC0415 - it is the loading that is guarded

        start()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
