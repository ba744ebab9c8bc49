#!/opt/nightshift/bin/python -IS
"""Exits with 0 when the service of this container answers a probe (default /readyz), else with 1 and the answer."""

import os
import socket
import sys

path = sys.argv[1] if len(sys.argv) > 1 else "/readyz"
try:
    with socket.create_connection(
        ("127.0.0.1", int(os.environ["NIGHTSHIFT_HEALTH_PORT"])), timeout=2
    ) as server:
        server.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while chunk := server.recv(4096):
            answer += chunk
except OSError as error:
    sys.exit(f"no answer: {error}")
if b" 200 " not in answer[:16]:
    sys.exit(answer.decode("utf-8", "replace"))
