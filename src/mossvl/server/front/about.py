"""What a replica tells the front of itself."""

import os
from dataclasses import dataclass, field

from mossvl.version import __version__


@dataclass(frozen=True)
class About:
    """A replica that is ready: the Unix socket that it listens on, its version and its process."""

    socket: str
    version: str = __version__
    process: int = field(default_factory=os.getpid)
