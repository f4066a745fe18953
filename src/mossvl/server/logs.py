"""The log: one line for what happens, in which nothing that a client sends can be taken for another line."""

import logging
import sys
from types import TracebackType

FORMAT = "%(asctime)s %(levelname)s %(message)s"
LONGEST_WORD = 200
"""Characters of a word that a client has chosen, as far as it is told."""
LONGEST_LINE = 1000
"""Characters of a line of a traceback."""
QUIET = {"uvicorn": "WARNING", "httpx": "WARNING", "httpcore": "WARNING", "python_multipart": "ERROR"}


def set_up_log(content: bool) -> None:
    """Lines go to stderr; what requests hold stays out of them, unless `content`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    if not content:  # Errors name what was asked.
        logging.getLogger("mossvl.engine").setLevel(logging.WARNING)


class Lines(logging.Formatter):
    """A record is a line; its traceback, if it has one, follows in indented ones."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _printable(super().formatMessage(record).rstrip())

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"    {_printable(line[:LONGEST_LINE])}" for line in lines)


def told(word: str) -> str:
    """A word that a client has chosen, as it may stand among others: without spaces, and cut."""
    return _printable(word[:LONGEST_WORD]).replace(" ", r"\x20")[:LONGEST_WORD]


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
