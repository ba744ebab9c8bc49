"""Functions that convert older data to the next version: one for each type and version, `build_requested_v1_to_v2`.

Each takes the data of its version and returns a new dict of the next. Validation comes after the last step.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

Upcast = Callable[[Mapping[str, Any]], dict[str, Any]]

#: (type, from version) → the function to the next version. A step is only ever added.
UPCASTS: Final[Mapping[tuple[str, int], Upcast]] = {}
