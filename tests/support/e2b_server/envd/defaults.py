"""What the control plane sets when it makes a sandbox."""

from dataclasses import dataclass, field


@dataclass
class Defaults:
    """The access token that every call must carry, and the environment of every process."""

    token: str = ""
    env: dict[str, str] = field(default_factory=dict)
