"""Translates the broker's credentials into FastStream's security objects."""

import ssl
from typing import Any

from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from nightshift.bus.kafka.credentials import connection_arguments
from nightshift.bus.settings import KafkaSettings

_MECHANISMS = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}


def faststream_security(settings: KafkaSettings) -> BaseSecurity:
    """Return the credentials of the settings as a FastStream security object."""
    arguments: dict[str, Any] = connection_arguments(settings)
    context: ssl.SSLContext | None = arguments.get("ssl_context")
    use_ssl = context is not None
    if "sasl_mechanism" not in arguments:
        return BaseSecurity(ssl_context=context, use_ssl=use_ssl)
    return _MECHANISMS[arguments["sasl_mechanism"]](
        username=arguments["sasl_plain_username"],
        password=arguments["sasl_plain_password"],
        ssl_context=context,
        use_ssl=use_ssl,
    )
