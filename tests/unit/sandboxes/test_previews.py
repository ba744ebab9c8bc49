"""Where a preview is reached when the provider's sandboxes are behind an address of one's own."""

import pytest

from nightshift.sandboxes.adapters.e2b import preview_behind


@pytest.mark.parametrize(
    ("sandbox_url", "preview"),
    [
        ("https://sandboxes.example.com", "https://8000-abc.sandboxes.example.com/"),
        ("http://proxy.internal:3002/", "http://8000-abc.proxy.internal:3002/"),
        ("http://127.0.0.1:3002", "http://127.0.0.1:3002/8000-abc/"),
        ("http://[::1]:3002", "http://[::1]:3002/8000-abc/"),
        ("http://localhost:3002/", "http://localhost:3002/8000-abc/"),
    ],
)
def test_a_preview_route_is_in_the_host_name_or_else_in_the_path(sandbox_url: str, preview: str) -> None:
    assert preview_behind(sandbox_url, "8000-abc") == preview
