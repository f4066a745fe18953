"""Log format: one line for each record; text from clients is escaped, so that it cannot forge a line."""

import logging
import sys
from types import TracebackType

FORMAT = "%(asctime)s %(levelname)s %(message)s"
LONGEST_WORD = 200
"""Characters after which a client's text is cut."""
LONGEST_LINE = 1000
"""Characters of a line of a traceback."""
QUIET = {"uvicorn": "WARNING", "httpx": "WARNING", "httpcore": "WARNING", "python_multipart": "ERROR"}


def set_up_log(content: bool, source: str = "") -> None:
    """Log to stderr, with the name of the process's part; the content of requests is left out, unless `content`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(FORMAT.replace("%(message)", f"{source}: %(message)") if source else FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger("uvicorn.error").addFilter(_not_of_refusals)
    if not content:  # The engine's messages quote queries.
        logging.getLogger("mossvl.engine").setLevel(logging.WARNING)


def _not_of_refusals(record: logging.LogRecord) -> bool:
    """uvicorn takes every WebSocket that is refused with an HTTP answer, as it allows, for a fault of the program."""
    return record.msg != "ASGI callable returned without completing handshake."


class Lines(logging.Formatter):
    """Formats a record as one line, followed by the indented lines of its traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _printable(super().formatMessage(record).rstrip())

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"    {_printable(line[:LONGEST_LINE])}" for line in lines)


def told(word: str) -> str:
    """Return a client's text as one word of a log line: escaped, without spaces, cut."""
    return _printable(word[:LONGEST_WORD]).replace(" ", r"\x20")[:LONGEST_WORD]


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
