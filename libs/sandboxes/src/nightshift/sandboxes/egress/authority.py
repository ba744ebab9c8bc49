"""The certificate authority of the egress proxy.

For a host that gets secrets, the proxy decrypts the traffic. So it shows sandboxes a certificate that this authority
signed.
"""

import datetime as dt
import os
import ssl
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_CA_DAYS: Final = 3650
_HOST_DAYS: Final = 30
_RENEW_BEFORE: Final = dt.timedelta(days=365)


class Authority:
    """The authority whose key and certificate are in `directory`. Several processes may share the directory."""

    def __init__(self, directory: Path) -> None:
        self.certificate = directory / "ca.pem"
        self._both = directory / "ca.key"
        self._directory = directory
        self._contexts: dict[str, tuple[dt.datetime, ssl.SSLContext]] = {}

    def prepare(self) -> Path:
        """Create the authority, unless it exists and is valid for long enough. Returns the path of its certificate."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self._both.exists() or self._certificate().not_valid_after_utc - _RENEW_BEFORE < _now():
            self._make()
        self.certificate.write_bytes(_pem(self._certificate()))
        return self.certificate

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Nightshift sandboxes of this host")])
        usage = x509.KeyUsage(False, False, False, False, False, True, False, False, False)
        certificate = (
            _builder(name, name, key.public_key(), days=_CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, hashes.SHA256())
        )
        handle, new = tempfile.mkstemp(dir=self._directory)
        with os.fdopen(handle, "wb") as file:
            file.write(_key_pem(key) + _pem(certificate))
        # The link fails when another process was first. So all processes use one key.
        with suppress(FileExistsError):
            os.link(new, self._both)
        os.unlink(new)

    def _certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self._both.read_bytes())

    def server_context(self, host: str) -> ssl.SSLContext:
        """Return the TLS context with which the proxy serves HTTP/1.1 in the name of this host. Caches it for days."""
        until, context = self._contexts.get(host, (_now(), None))
        if context is None or until <= _now():
            context = self._new_context(host)
            self._contexts[host] = (_now() + dt.timedelta(days=_HOST_DAYS / 2), context)
        return context

    def _new_context(self, host: str) -> ssl.SSLContext:
        authority = self._certificate()
        ca_key = serialization.load_pem_private_key(self._both.read_bytes(), password=None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._both} holds another kind of key")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
        certificate = (
            _builder(authority.subject, subject, key.public_key(), days=_HOST_DAYS)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
            )
            .sign(ca_key, hashes.SHA256())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        with tempfile.NamedTemporaryFile(dir=self._directory) as file:
            file.write(_key_pem(key) + _pem(certificate))
            file.flush()
            context.load_cert_chain(file.name)
        return context


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - dt.timedelta(days=1))
        .not_valid_after(_now() + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
