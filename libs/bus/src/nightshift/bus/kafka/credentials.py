"""Translates the broker's address and credentials into arguments of aiokafka's consumer, producer and admin client."""

import ssl
from typing import Any

from aiokafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

from nightshift.bus.settings import KafkaSettings
from nightshift.eventlog.errors import ConfigurationError

#: Errors after which the same credentials are refused again.
CREDENTIALS_REFUSED = (
    AuthenticationFailedError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    ssl.SSLCertVerificationError,
)


def refusal(error: BaseException) -> ConfigurationError:
    """Return the ConfigurationError for this error: a refused certificate of the broker, or refused credentials."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"the broker's certificate is refused: {error.verify_message}",
            hint="name the file of its authority in NIGHTSHIFT_KAFKA_SSL_CA_FILE, and brokers as in the certificate",
        )
    return ConfigurationError(
        f"the broker refuses the credentials: {type(error).__name__}: {error}",
        hint="check the NIGHTSHIFT_KAFKA_SASL_ and _SSL_ variables and the broker's ACLs",
    )


def connection_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """Return the keyword arguments with which any aiokafka client connects.

    Raises ConfigurationError when a certificate file cannot be read.
    """
    arguments: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap.split(","),
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        password = settings.kafka_sasl_password
        arguments |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": password.get_secret_value() if password else None,
        }
    return arguments


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    key_password = settings.kafka_ssl_key_password
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_file)
        if settings.kafka_ssl_cert_file is not None:
            context.load_cert_chain(
                settings.kafka_ssl_cert_file,
                settings.kafka_ssl_key_file,
                key_password.get_secret_value() if key_password else None,
            )
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the broker's certificates cannot be read: {error}",
            hint="check NIGHTSHIFT_KAFKA_SSL_CA_FILE, _CERT_FILE and _KEY_FILE",
        ) from error
    return context
