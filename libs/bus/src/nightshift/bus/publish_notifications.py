"""Notifications through PostgreSQL that topics have new records, for a broker that does not wake a waiting fetch.

The relay sends one after each acknowledgement. A lost notification only delays a fetch.
"""

from typing import Final

#: The channel of PostgreSQL's NOTIFY; the payload is a topic's name.
CHANNEL: Final = "nightshift_published"
