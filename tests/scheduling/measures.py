"""Prompts for tests of the scheduler, and what they ask of a machine that has run."""

from .asked import Asked, Item
from .machine import Machine


def text(count: int, start: int = 10) -> list[Item]:
    return list(range(start, start + count))


def rows_of(machine: Machine, asked: Asked) -> int:
    """Rows of a prompt that were computed."""
    parts = [part for step in machine.steps for part in step.prefill if part.request is asked.request]
    return sum(part.stop - part.start for part in parts)


def frames_of(machine: Machine, asked: Asked) -> int:
    parts = [part for step in machine.steps for part in step.frames if part.request is asked.request]
    return sum(part.stop - part.start for part in parts)


def everything_is_free(machine: Machine) -> bool:
    machine.cache.clear()
    return machine.cache.num_free == machine.cache.num_pages and not machine.scheduler._computing
