"""Configures logging: each record is one JSON object or one line of text on stderr, with secrets masked."""

import logging
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from nightshift.eventlog.passwords import MASK, hide_passwords
from nightshift.eventlog.trace_context import CURRENT

# The value of a field with one of these names is always masked.
_SECRET_NAMES = re.compile(
    r"(?:^|_|-)(?:authorization|api_?key|password|passwd|secret|secret_?key|token|access_?token|private_?key"
    r"|cookie|set-cookie|dsn|credentials?)$",
    re.IGNORECASE,
)
# Control characters and Unicode line separators: they could start a new line or control the terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Shorter secrets are not masked, because ordinary words would be masked with them.
_SHORTEST_SECRET = 6


class Masking:
    """A structlog processor that masks known secrets in every value, and the whole value of fields such as
    `password`.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted(
            {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True
        )
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        """Mask the values of a log record in place."""
        for key, value in event.items():
            event[key] = self._mask(key, value)
        return event

    def text(self, text: str) -> str:
        """Return the text with known secrets and the passwords of URLs masked."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return hide_passwords(text)

    def _mask(self, key: object, value: Any) -> Any:
        if isinstance(key, str) and value is not None and _SECRET_NAMES.search(key):
            return MASK
        match value:
            case str():
                return self.text(value)
            case None | bool() | int() | float():
                return value
            case Mapping():
                return {self.text(str(inner)): self._mask(inner, item) for inner, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._mask(None, item) for item in value]
            case _:
                return self.text(repr(value) if isinstance(value, bytes) else str(value))


def configure(
    *,
    level: Literal["debug", "info", "warning", "error"] = "info",
    format: Literal["json", "console"] = "json",
    secrets: Iterable[str] = (),
    bound: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send the log records of our code and of all libraries to `stream` (default: stderr).

    Every record gets the fields in `bound`, such as the name of the service. The values in `secrets` are masked.
    """
    constant = dict(bound or {})

    def bind_constant(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        return {**constant, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        bind_constant,
        _add_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        # Stack traces without local variables, because these may hold secrets that the masking does not know.
        structlog.processors.format_exc_info,
    ]
    ending: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, Masking(secrets)]
    ending.append(structlog.processors.JSONRenderer() if format == "json" else _console_line)

    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=ending))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # These libraries log every heartbeat or request at info level and below.
    for chatty in ("aiokafka", "botocore", "boto3", "urllib3", "s3transfer", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _add_trace(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Add the ids of the current trace and span to the log record, if there is a trace."""
    if (trace := CURRENT.get()) is not None:
        _version, event["trace_id"], event["span_id"], _flags = trace.split("-", 3)
    return event


def _console_line(_logger: WrappedLogger, _name: str, event: MutableMapping[str, Any]) -> str:
    """Return a record as one line of text: time, level, event, fields. Control characters are escaped."""
    time, level = event.pop("timestamp", ""), event.pop("level", "")
    what, exception = event.pop("event", ""), event.pop("exception", None)
    rest = " ".join(f"{key}={value}" for key, value in event.items())
    line = (
        f"{time} {level:<8} {what}" + (f"  {rest}" if rest else "") + (f"  {exception}" if exception else "")
    )
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), line)
