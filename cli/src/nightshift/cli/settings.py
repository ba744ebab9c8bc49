"""The settings of commands that send requests."""

from pydantic import SecretStr

from nightshift.bus.settings import KafkaSettings
from nightshift.contracts.principals import OPERATOR


class ProducerSettings(KafkaSettings):
    """The settings of commands that send requests. Each request states `principal`, and `request_key` signs it."""

    principal: str = OPERATOR  # who sends: `operator` or `account/<id>`
    # The key that signs requests, as `<key id>:<secret>`.
    request_key: SecretStr | None = None
