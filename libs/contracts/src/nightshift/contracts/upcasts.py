"""Upcasts: functions that convert the data of an older event version to the next version.

There is one for each type and old version, named like `build_requested_v1_to_v2`. It takes the data of its version and
returns a new dict. The data is validated after the last conversion.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

Upcast = Callable[[Mapping[str, Any]], dict[str, Any]]

#: (type, old version) → the function that converts to the next version. Entries are only ever added.
UPCASTS: Final[Mapping[tuple[str, int], Upcast]] = {}
