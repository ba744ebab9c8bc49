"""What a hostile sandbox tries in order to reach what it may not. Nothing forbidden is ever connected to."""

from typing import Any

import pytest
from tests.support.egress_lab import ALLOWED, OUTSIDE, OUTSIDE_6, OWN, PLACEHOLDER, SECRET

pytestmark = [pytest.mark.integration]

FILES, OTHER, SECRETIVE = ALLOWED
GOOD = {host: [[OUTSIDE]] for host in ALLOWED}
Ask = Any


def get(url: str, *headers: str, host: str = FILES) -> str:
    return "\r\n".join([f"GET {url} HTTP/1.1", f"Host: {host}", "Connection: close", *headers, "", ""])


def connect(target: str, *headers: str) -> str:
    named = [] if any(header.startswith("Host:") for header in headers) else [f"Host: {target}"]
    return "\r\n".join([f"CONNECT {target} HTTP/1.1", *named, *headers, "", ""])


def inside(path: str, *headers: str, host: str = FILES, body: str = "") -> str:
    head = [f"POST {path} HTTP/1.1" if body else f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    head += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*head, *headers, "", body])


def test_an_allowed_host_is_reached_in_every_way(ask: Ask) -> None:
    ways = {
        "plain": ask(get(f"http://{FILES}/x"), names=GOOD),
        "plain, port": ask(get(f"http://{FILES}:80/x"), names=GOOD),
        "upper case": ask(get(f"http://{FILES.upper()}/x", host=FILES.upper()), names=GOOD),
        "ipv6": ask(get(f"http://{FILES}/x"), names={FILES: [[OUTSIDE_6]]}),
        "tunnel": ask(inside("/x"), connect=connect(f"{FILES}:443"), tls=FILES, names=GOOD),
        "tunnel to port 80": ask(inside("/x"), connect=connect(f"{FILES}:80"), names=GOOD, half_close=False),
        "second address": ask(get(f"http://{FILES}/x"), names={FILES: [["127.0.0.1", OUTSIDE]]}),
    }
    for way, said in ways.items():
        assert "reached\n" in said["answer"], (way, said)
        assert [hit.rpartition(":")[0] for hit in said["hits"]] in ([OUTSIDE], [OUTSIDE_6]), (way, said)


HOSTS = [
    *(
        "evil.example",
        "files.lab.example.evil.example",
        "evil-files.lab.example",
        "lab.example",
        "sub.files.lab.example",
    ),
    *(
        "files.lab.example.",
        "files.lab.example..",
        ".files.lab.example",
        "files..lab.example",
        "*.lab.example",
    ),
    *(
        "evil.example\0.files.lab.example",
        "files.lab.example\0.evil.example",
        "files.lab.example%00.evil.example",
    ),
    *(
        "files.lab.example\t",
        "files.lab.example%2eevil.example",
        "user@files.lab.example",
        "files.lab.example@evil.example",
    ),
    *(
        "files.lab.example:443@evil.example",
        "files.lab.example#evil.example",
    ),
    *(
        "files.lab.example\\.evil.example",
        "fіles.lab.example".encode().decode("latin-1"),
        "xn--fles-5cd.lab.example",
    ),
    *("ﬁles.lab.example".encode().decode("latin-1"), "files。lab。example".encode().decode("latin-1")),
    *("localhost", "localhost.localdomain", "metadata", "metadata.google.internal", "ip6-localhost"),
    *(
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "10.9.9.9",
        OWN,
        OUTSIDE,
    ),
    *("169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1%25lo]", "[2001:db8::10]", "::1", "[::]"),
    *("127.0.0.1.nip.io", "api.anthropic.com", "", "-", "a" * 64 + ".example", "a." * 130 + "example"),
]


@pytest.mark.parametrize("host", HOSTS)
def test_only_an_exact_name_is_looked_up(ask: Ask, host: str) -> None:
    everywhere = {name: [["127.0.0.1"]] for name in (*HOSTS, "evil.example")}
    said = ask(
        [connect(f"{host}:443"), connect(f"{host}:80"), get(f"http://{host}/"), connect(host)],
        names=everywhere,
    )
    assert said["hits"] == []
    assert said["lookups"] == 0
    assert said["answer"].count("HTTP/1.1 403") == 4, said


ADDRESSES = [
    *(
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.9.9.9",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.7.7",
        "100.64.0.9",
    ),
    *(
        "169.254.169.254",
        "169.254.170.2",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
    ),
    *(
        "255.255.255.255",
        OWN,
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:0:127.0.0.1",
    ),
    *(
        "fe80::1",
        "fe80::1%lo",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
    ),
    *("2002:7f00:1::", "2001::1", "2001:db8::1", "100::1", "not an address"),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_allowed_name_at_a_forbidden_address(ask: Ask, address: str) -> None:
    send = [connect(f"{FILES}:443"), get(f"http://{FILES}/")]
    said = ask(send, names={FILES: [[address]]})
    assert said["hits"] == []
    assert said["answer"].count("HTTP/1.1 403") == 2
    assert address.partition("%")[0] in said["answer"]
    assert "resolves to" in said["traffic"][FILES]


@pytest.mark.parametrize(
    "answers",
    [
        [[OUTSIDE], ["127.0.0.1"]],
        [["127.0.0.1"], [OUTSIDE], ["127.0.0.1"]],
        [["127.0.0.1", OUTSIDE], ["10.9.9.9", "169.254.169.254"]],
    ],
)
def test_a_name_that_changes_its_address_gains_nothing(ask: Ask, answers: list[list[str]]) -> None:
    send = [get(f"http://{FILES}/")] * 4
    said = ask(send, names={FILES: answers})
    assert set(said["hits"]) <= {f"{OUTSIDE}:80"}


REQUESTS = {
    "another Host": get(f"http://{FILES}/", host="evil.example"),
    "another allowed Host": get(f"http://{FILES}/", host=OTHER),
    "two Hosts": get(f"http://{FILES}/", f"Host: {OTHER}"),
    "Host with a port elsewhere": get(f"http://{FILES}/", host=f"{FILES}:5432"),
    "path only": get("/", host=FILES),
    "https in the clear": get(f"https://{FILES}/"),
    "ftp": get(f"ftp://{FILES}/"),
    "file": get("file:///etc/passwd"),
    "unix": get("unix:/run/docker.sock"),
    "fragment": get(f"http://{FILES}#evil.example/"),
    "port of a database": get(f"http://{FILES}:5432/"),
    "port with a sign": get(f"http://{FILES}:+80/"),
    "user": get(f"http://u:p@{FILES}/"),
    "backslash": get(f"http://evil.example\\@{FILES}/"),
    "line in the target": f"GET http://{FILES}/ HTTP/1.1\r\nX: \x00\r\nHost: {FILES}\r\n\r\n",
    "folded header": f"GET http://{FILES}/ HTTP/1.1\r\nHost:\r\n evil.example\r\n\r\n",
    "length and chunks": f"POST http://{FILES}/ HTTP/1.1\r\nHost: {FILES}\r\nContent-Length: 3\r\n"
    "Content-Length: 9\r\n\r\nabc",
    "unknown transfer coding": f"POST http://{FILES}/ HTTP/1.1\r\nHost: {FILES}\r\n"
    "Transfer-Encoding: gzip, chunked\r\n\r\n",
    "chunked in disguise": f"POST http://{FILES}/ HTTP/1.1\r\nHost: {FILES}\r\n"
    "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": f"GET http://{FILES}/ HTTP/1.1\nHost: {FILES}\nHost: evil.example\n\n",
    "huge head": f"GET http://{FILES}/ HTTP/1.1\r\nHost: {FILES}\r\nX: {'a' * 300_000}\r\n\r\n",
    "no HTTP": "SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SOCKS": "\x05\x01\x00",
    "CONNECT with another Host": connect(f"{FILES}:443", "Host: evil.example:443"),
    "CONNECT to a port of a database": connect(f"{FILES}:5432"),
    "CONNECT without a port": connect(FILES),
    "CONNECT with a path": connect(f"{FILES}:443/x"),
    "CONNECT to an address": connect("127.0.0.1:443"),
    "CONNECT to the metadata server": connect("169.254.169.254:80"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_says_two_things_is_refused(ask: Ask, name: str) -> None:
    said = ask(REQUESTS[name], names=GOOD)
    assert said["hits"] == []
    assert "reached\n" not in said["answer"]
    assert said["answer"].startswith("HTTP/1.1 403") or name == "SOCKS", said


def test_headers_for_the_proxy_do_not_leave_it(ask: Ask) -> None:
    tricks = (
        *(
            "Proxy-Authorization: Basic eDp5",
            "Proxy-Connection: keep-alive",
            "Connection: Host, X-Mine",
            "X-Mine: 1",
        ),
        *("TE: trailers", "Keep-Alive: timeout=1"),
    )
    said = ask(get(f"http://{FILES}/", *tricks), names=GOOD)
    got = said["answer"].lower()
    assert f"host: {FILES}" in got
    assert not [
        name for name in ("proxy-", "x-mine", "te:", "keep-alive") if name in got.partition("reached")[2]
    ]


def test_a_request_hidden_behind_another_is_checked_too(ask: Ask) -> None:
    first = f"GET http://{FILES}/ HTTP/1.1\r\nHost: {FILES}\r\n\r\n"
    said = ask(first + get("http://evil.example/", host="evil.example"), names=GOOD)
    assert said["hits"] == [f"{OUTSIDE}:80"]
    assert said["answer"].count("reached\n") == 1
    assert "evil.example is not allowed" in said["answer"]


@pytest.mark.parametrize("host", ["evil.example", OTHER, "127.0.0.1"])
def test_a_tunnel_carries_only_tls_for_its_own_host(ask: Ask, host: str) -> None:
    said = ask(inside("/"), connect=connect(f"{FILES}:443"), tls=host, names=GOOD)
    assert "reached\n" not in said["answer"]
    assert "TLS" in said["traffic"][FILES] or "server" in said["traffic"][FILES]


@pytest.mark.parametrize(
    "first",
    ["SSH-2.0-x\r\n", get("/"), "\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", "\x15\x03\x01\x00\x02\x01\x00"],
)
def test_a_tunnel_carries_no_other_protocol(ask: Ask, first: str) -> None:
    said = ask(first, connect=connect(f"{FILES}:443"), names=GOOD)
    assert "reached\n" not in said["answer"]
    assert said["traffic"][FILES]


@pytest.mark.parametrize(
    "request_inside",
    [
        inside("/", host="evil.example"),
        inside("http://evil.example/"),
        connect("evil.example:443"),
        inside("/", host=OTHER),
    ],
)
def test_a_tunnel_to_port_80_stays_with_its_host(ask: Ask, request_inside: str) -> None:
    said = ask(request_inside, connect=connect(f"{FILES}:80"), names=GOOD)
    assert said["hits"] == []
    assert "HTTP/1.1 403" in said["answer"]


def test_a_redirect_to_the_metadata_server_is_refused(ask: Ask) -> None:
    said = ask(get(f"http://{FILES}/redirect"), names=GOOD)
    assert "location: http://169.254.169.254" in said["answer"].lower()
    followed = ask(get("http://169.254.169.254/latest/meta-data", host="169.254.169.254"), names=GOOD)
    assert followed["hits"] == []
    assert followed["answer"].startswith("HTTP/1.1 403")


def test_the_refusal_names_the_host_and_what_is_allowed(ask: Ask) -> None:
    said = ask(get("http://evil.example/", host="evil.example"))
    assert said["answer"].startswith("HTTP/1.1 403 the host evil.example is not allowed\r\n")
    assert f"allowed hosts: {', '.join(sorted(ALLOWED))}" in said["answer"]


def swapped(ask: Ask, *headers: str, path: str = "/report", body: str = "", **more: Any) -> dict[str, Any]:
    send = inside(path, *headers, host=SECRETIVE, body=body)
    return dict(ask(send, connect=connect(f"{SECRETIVE}:443"), tls=SECRETIVE, names=GOOD, **more))


@pytest.mark.parametrize(
    ("headers", "path", "body", "arrives"),
    [
        ([f"Authorization: Bearer {PLACEHOLDER}"], "/report", "", f"Bearer {SECRET}"),
        (["Authorization: Basic {basic}"], "/report", "", "Basic {real}"),
        ([], f"/report?key={PLACEHOLDER}", "", "key=canary-value%2Fwith%2Bsigns%3D%3D"),
        (["Content-Type: application/json"], "/report", f'{{"t": "{PLACEHOLDER}"}}', f'"t\\": \\"{SECRET}'),
        (
            ["Content-Type: application/x-www-form-urlencoded"],
            *("/report", f"a=1&t={PLACEHOLDER}", "t=canary-value%2Fwith%2Bsigns%3D%3D"),
        ),
    ],
)
def test_a_secret_reaches_its_host_and_comes_back_masked(
    ask: Ask, headers: list[str], path: str, body: str, arrives: str
) -> None:
    import base64

    basic = base64.b64encode(f"user:{PLACEHOLDER}".encode()).decode()
    real = base64.b64encode(f"user:{SECRET}".encode()).decode()
    said = swapped(
        ask,
        *(header.format(basic=basic) if "{basic}" in header else header for header in headers),
        path=path,
        body=body,
    )
    reported = "".join(said["hits"])
    assert arrives.format(real=real) if "{real}" in arrives else arrives in reported, said
    assert "reached\n" in said["answer"]
    for form in (
        SECRET,
        SECRET[::-1],
        real,
        "canary-value%2Fwith",
        base64.b64encode(SECRET.encode()).decode()[:20],
    ):
        assert form not in said["answer"]


def test_a_secret_goes_to_its_own_host_only(ask: Ask) -> None:
    header = f"Authorization: Bearer {PLACEHOLDER}"
    elsewhere = ask(inside("/report", header), connect=connect(f"{FILES}:443"), tls=FILES, names=GOOD)
    in_the_clear = ask(get(f"http://{SECRETIVE}/report", header, host=SECRETIVE), names=GOOD)
    in_a_tunnel = ask(
        inside("/report", header, host=SECRETIVE), connect=connect(f"{SECRETIVE}:80"), names=GOOD
    )
    other_host = ask(
        inside("/report", header, host=OTHER), connect=connect(f"{SECRETIVE}:443"), tls=SECRETIVE, names=GOOD
    )
    for said in (elsewhere, in_the_clear, in_a_tunnel, other_host):
        assert SECRET not in str(said)
    assert "HTTP/1.1 403" in other_host["answer"]
