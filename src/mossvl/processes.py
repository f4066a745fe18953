"""Which of several processes that train together this one is."""

import os


def first_process() -> bool:
    """Whether it is the one that speaks and writes; so says the launcher's environment."""
    return int(os.environ.get("RANK", 0)) == 0
