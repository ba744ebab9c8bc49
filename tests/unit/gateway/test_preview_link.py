"""Links to previews: only the gateway can make one, and each ends."""

import pytest

from nightshift.sandbox_gateway.domain.preview_link import PreviewLinks

LINKS = PreviewLinks("https://preview.example.org:8443", b"k" * 32)
SANDBOX = "local-dd8caa8c1c461909"
URL = LINKS.link(SANDBOX, 65_535, expires=2_000_000_000)
HOST = URL.removeprefix("https://").rstrip("/")


def test_a_link_names_sandbox_and_port_until_it_expires():
    assert HOST.endswith(".preview.example.org:8443")
    assert len(HOST.partition(".")[0]) <= 63
    assert LINKS.read(HOST, now=1_999_999_999.0) == (SANDBOX, 65_535)
    assert LINKS.read(HOST.upper(), now=0) == (SANDBOX, 65_535)
    assert LINKS.read(HOST, now=2_000_000_000.0) == "expired"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "preview.example.org",
        HOST.replace("preview.example.org", "evil.example.org"),
        HOST.replace("65535-", "6553-"),
        HOST.replace("dd8c", "dd8d"),
        HOST.replace("77359400", "7fffffff"),
        HOST[:60] + ("a" if HOST[60] != "a" else "b") + HOST[61:],
        PreviewLinks(LINKS.base, b"x" * 32)
        .link(SANDBOX, 65_535, expires=2_000_000_000)
        .removeprefix("https://"),
        f"x.{HOST}",
    ],
)
def test_another_name_is_unknown(host):
    assert LINKS.read(host, now=0) == "unknown"


@pytest.mark.parametrize("sandbox_id", ["UPPER", "a.b", "a/b", "x" * 40, ""])
def test_an_id_that_fits_into_no_host_name_has_no_link(sandbox_id):
    with pytest.raises(ValueError, match="fits into no host name"):
        LINKS.link(sandbox_id, 80, expires=1)
