"""Writes the answer to a request: a header, then frames of data."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

from .wire import END, FULL, Refusal, Writer, frame, json_frame


def with_output(state: dict[str, Any], out: bytes, err: bytes) -> tuple[dict[str, Any], Iterator[bytes]]:
    """Return the header (the call's state) and the frames (its stdout, then its stderr) of the answer for an ended
    call.
    """
    return {**state, "output": True}, (frame(data) + END if data else END for data in (out, err))


def framed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield frame(chunk)
    yield END


def answer(operation: Callable[[], Any], out: Writer) -> bool:
    """Call `operation` and write its result to `out`, or an error answer when it raises. Returns whether it
    succeeded.
    """
    done = False
    try:
        result = operation() or {}
        head, frames = result if isinstance(result, tuple) else ({}, result)
        if isinstance(result, dict):
            out.write(json_frame(result))
        else:
            first = next(frames)  # computed before the header, so that a Refusal can still be the answer
            out.write(json_frame(head) + first)
            for following in frames:
                out.write(following)
        done = True
    except Refusal as refusal:
        out.write(json_frame({"error": refusal.kind, "message": str(refusal)}))
    except (BrokenPipeError, ConnectionError):
        return False
    except OSError as error:
        said = FULL if error.errno == errno.ENOSPC else str(error)
        out.write(json_frame({"error": "denied", "message": said}))
    except MemoryError:
        out.write(
            json_frame({"error": "too_large", "message": "the sandbox's agent has no memory left for this"})
        )
    except (KeyError, TypeError, ValueError, EOFError, RecursionError):
        out.write(json_frame({"error": "bad_request", "message": _trace()}))
    out.flush()
    return done


def _trace() -> str:
    import traceback  # noqa: PLC0415 - slow to import, and seldom needed

    return traceback.format_exc(limit=-1)
