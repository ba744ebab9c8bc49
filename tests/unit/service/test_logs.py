"""Each record is one line, whatever it contains, and shows no secret."""

import io
import json
import logging
import subprocess
import sys

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from nightshift.servicekit import logs

SECRET = "s3cr3t-value-42"


@pytest.fixture(autouse=True)
def _restore():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def _told(format, act) -> str:
    stream = io.StringIO()
    logs.configure(level="debug", format=format, secrets=[SECRET], stream=stream, bound={"service": "t"})
    act(structlog.get_logger("t"))
    return stream.getvalue()


def _fail_with_secret(log) -> None:
    hidden_local = SECRET * 2
    try:
        raise ValueError(f"{SECRET} {len(hidden_local)}")  # noqa: TRY301 - its stack is what is tested
    except ValueError:
        log.exception("failed")


@pytest.mark.parametrize("format", ["json", "console"])
@pytest.mark.parametrize(
    "act",
    [
        lambda log: log.info(f"in the text {SECRET}"),
        lambda log: log.info("x", value=SECRET),
        lambda log: log.info("x", deep={"a": [{"b": (f"<{SECRET}>",)}], SECRET: 1}),
        lambda log: log.info("x", raw=SECRET.encode()),
        lambda log: log.info("x", thing=ValueError(SECRET)),
        _fail_with_secret,
        lambda log: logging.getLogger("library").warning("%s", SECRET),
        lambda log: log.info("x", authorization=SECRET[:8], api_key="k" * 20, password="p" * 20),
    ],
)
def test_a_secret_is_masked_anywhere_in_a_record(format, act):
    told = _told(format, act)
    assert SECRET not in told
    assert SECRET[:8] not in told
    assert "***" in told
    assert "kkkk" not in told
    assert "pppp" not in told


def test_a_password_in_an_address_is_masked():
    told = _told("json", lambda log: log.info("to", address="postgresql://me:pa55word@h:1/db"))
    assert "pa55word" not in told
    assert "postgresql://me:***@h:1/db" in told


@given(text=st.text() | st.text(alphabet='\r\n\u2028\u0085\x1b[0m{}"'))
@pytest.mark.parametrize("format", ["json", "console"])
def test_no_text_can_begin_a_new_log_line(format, text):
    told = _told(format, lambda log: log.info(text, value=text))
    assert len(told.splitlines()) == 1
    assert "\x1b" not in told
    if format == "json":
        record = json.loads(told)
        assert (record["event"], record["value"], record["service"]) == (text, text, "t")


def test_library_records_carry_the_bound_context():
    def act(_log) -> None:
        with structlog.contextvars.bound_contextvars(build_id="b1", event_id="e1"):
            logging.getLogger("library").warning("hello")

    record = json.loads(_told("json", act))
    assert (record["build_id"], record["event_id"], record["event"]) == ("b1", "e1", "hello")


def test_logs_and_settings_load_no_kafka_client():
    code = (
        "import sys, nightshift.servicekit.logs, nightshift.servicekit.settings, nightshift.servicekit.worker_pool;"
        "print([m for m in ('aiokafka', 'faststream', 'boto3', 'asyncpg') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
