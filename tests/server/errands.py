"""What a process may be asked to do in tests; in a module that it can import."""

import time

from mossvl.errors import MediaError


def squared(processor, number):
    return number * number


def failing(processor):
    raise MediaError("nothing to see")


def sleeping(processor):
    time.sleep(600)
