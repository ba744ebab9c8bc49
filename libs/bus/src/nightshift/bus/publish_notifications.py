"""The PostgreSQL channel on which the relay announces that a topic has new records.

Consumers of the embedded broker need it, because that broker does not answer a waiting fetch when records arrive. The
relay notifies after each acknowledged publish. A lost notification only delays a fetch.
"""

from typing import Final

#: The channel of PostgreSQL's NOTIFY. The payload is the name of the topic.
CHANNEL: Final = "nightshift_published"
