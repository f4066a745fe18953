"""Which of several processes that train together this one is."""

import os


def first_process() -> bool:
    """Whether it is the one that speaks and writes; so says the launcher's environment."""
    return os.environ.get("RANK") in (None, "", "0")
