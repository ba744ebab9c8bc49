"""Every consuming service is a FastStream application that can be imported without settings."""

from importlib import import_module

import pytest
from faststream import FastStream


@pytest.mark.parametrize("service", ["budget", "orchestrator", "sandbox_gateway", "snapshotter"])
def test_service_has_a_faststream_application(service: str) -> None:
    assert isinstance(import_module(f"nightshift.{service}.app").app, FastStream)
