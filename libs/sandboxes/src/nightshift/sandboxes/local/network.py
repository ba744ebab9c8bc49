"""The network of a local sandbox: its listening sockets, and the variables that point programs to the egress proxy."""

import os
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from nightshift.sandboxes.agent.egress import PROXY_PORT
from nightshift.sandboxes.agent.wire import json_frame
from nightshift.sandboxes.errors import SandboxGone, SandboxUnavailable
from nightshift.sandboxes.local.state import SandboxDirectory

_PROXY: Final = f"http://127.0.0.1:{PROXY_PORT}"
_JAVA: Final = " ".join(
    f"-D{scheme}.proxyHost=127.0.0.1 -D{scheme}.proxyPort={PROXY_PORT}" for scheme in ("http", "https")
)
#: The certificates that programs in sandboxes trust: the host's and the proxy's.
BUNDLE: Final = "/etc/nightshift-ca.pem"
_FETCH: Final = "/etc/nightshift-fetch.cjs"
_BUNDLE_VARIABLES: Final = (
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"),
    *("CURL_CA_BUNDLE", "CARGO_HTTP_CAINFO"),
)
#: Package managers retry only a little, so that a refused host fails soon.
_RETRIES: Final = {
    "npm_config_fetch_retries": "2",
    "npm_config_fetch_retry_mintimeout": "100",
    "npm_config_fetch_retry_maxtimeout": "1000",
    "PIP_RETRIES": "2",
}
_WITHOUT: Final = {"npm_config_fetch_retries": "0", "PIP_RETRIES": "0"}


def variables(*, connected: bool) -> Mapping[str, str]:
    """Return the environment variables of a sandbox's commands. If `connected`, they name the egress proxy."""
    if not connected:
        return _WITHOUT
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), _PROXY)
    local = dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1")
    tools = {
        **dict.fromkeys(("npm_config_proxy", "npm_config_https_proxy", "YARN_HTTP_PROXY"), _PROXY),
        "YARN_HTTPS_PROXY": _PROXY,
        "NODE_USE_ENV_PROXY": "1",
        "NODE_OPTIONS": f"--require={_FETCH}",
        **dict.fromkeys(("MAVEN_OPTS", "GRADLE_OPTS"), _JAVA),
    }
    return {**proxies, **local, **tools, **_RETRIES, **dict.fromkeys(_BUNDLE_VARIABLES, BUNDLE)}


def files(certificate: Path | None) -> Mapping[str, bytes]:
    """Return the files to add to a sandbox's /etc, by name: certificates and proxy settings. Empty without a network.

    `certificate` is the egress proxy's certificate, or None without a network.
    """
    if certificate is None:
        return {}
    fetch = (Path(__file__).parent / "fetch_proxy.cjs").read_bytes()
    return {Path(BUNDLE).name: bundle(certificate), Path(_FETCH).name: fetch}


def bundle(certificate: Path) -> bytes:
    """Return the certificates that programs in sandboxes trust, in PEM: those of the host, and `certificate`."""
    system = b""
    found = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    for path in (found, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"):
        with suppress(OSError):
            if path and (system := Path(path).read_bytes()):
                break
    return system.rstrip() + b"\n" + certificate.read_bytes()


def open_listeners(directory: SandboxDirectory) -> list[int]:
    """Return descriptors for the egress proxy: a pidfd of the sandbox's first process, then its listening sockets.

    The caller closes them. Raises SandboxGone when the sandbox has ended, and SandboxUnavailable when it passes no
    socket.
    """
    fds: list[int] = []
    try:
        first = directory.first()
        with suppress(ProcessLookupError):
            fds += [] if first is None else [os.pidfd_open(first.pid)]
        alive = directory.runs
        passed = _passed(directory) if fds and alive else []
    except OSError as error:
        _close(fds)
        raise SandboxUnavailable(f"sandbox {directory.id}: {error}") from error
    if passed:
        return fds + passed
    _close(fds)
    if fds and alive:
        raise SandboxUnavailable(f"sandbox {directory.id} has no listener for the network")
    raise SandboxGone(f"sandbox {directory.id} has ended")


def _passed(directory: SandboxDirectory) -> list[int]:
    """Ask the agent program for its listening sockets. Returns their descriptors."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        handle = os.open(directory.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # The path of a socket has at most 107 bytes.
            connection.connect(f"/proc/self/fd/{handle}/agent.sock")
        finally:
            os.close(handle)
        connection.sendall(json_frame({"op": "egress"}))
        return list(socket.recv_fds(connection, 1, 8, socket.MSG_CMSG_CLOEXEC)[1])


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
