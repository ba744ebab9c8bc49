"""Which hosts a sandbox may reach: exact names, and never the model's API, whoever asks for it."""

import pytest
from pydantic import ValidationError

from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.hosts import MODEL_HOSTS
from nightshift.sandboxes.egress.hosts import HostRefused, reachable

MODEL = sorted(MODEL_HOSTS)


@pytest.mark.parametrize("host", [*MODEL, *(name.upper() for name in MODEL)])
def test_no_setting_opens_the_models_api(host):
    assert reachable([host, "files.example.org"]) == {"files.example.org"}


@pytest.mark.parametrize("host", MODEL)
def test_no_request_may_name_the_models_api(host):
    with pytest.raises(ValidationError, match="model's API"):
        BuildRequested(build_id="b", project_id="p", account_id="a", idea_brief="x", egress_hosts=(host,))


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "[::1]", "*.example.org", "user@example.org", "example.org.", "a.1"]
)
def test_only_exact_names_are_taken(host):
    with pytest.raises(HostRefused):
        reachable([host])
