"""File uploads: multipart forms whose file is written to its final path while it arrives."""

from contextlib import closing

import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from mossvl.server.errors import RequestError
from mossvl.server.uploads import PURPOSES, VISION, Incoming, Upload, Uploads

FIELD, PURPOSE = "file", "purpose"
LONGEST_PURPOSE = 40
"""Bytes after which a purpose is read no further, as there is none so long."""
MOST_PARTS = 9
"""Parts of a form: the file, its purpose, and fields that are ignored."""


async def uploaded(request: Request, uploads: Uploads, most: int) -> Upload:
    """Read a request's form and return its file.

    Args:
        most: largest size of the file, in bytes.

    Raises:
        ClientDisconnect: the client disconnected.
        RequestError: the body is no form, has no file or more than one, its file is empty or too large, or its purpose
            is unknown.
        ResourceError: the disk is full.
    """
    try:
        with closing(UploadForm(request.headers.get("content-type", ""), uploads, most, request.state.key)) as form:
            async for piece in request.stream():
                await anyio.to_thread.run_sync(form.write, piece)
            return await anyio.to_thread.run_sync(form.file)
    except FormParserError as error:
        raise invalid(f"{error}"[:200]) from error


class UploadForm:
    """An incremental parser of multipart/form-data.

    Raises:
        FormParserError: from any method, as soon as the data are malformed.
    """

    def __init__(self, content_type: str, uploads: Uploads, most: int, owner: str = "") -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise invalid("the content type must be multipart/form-data, with its boundary")
        self._uploads, self._most, self._owner = uploads, most, owner
        self._incoming: Incoming | None = None
        self._header, self._value, self._disposition = b"", b"", b""
        self._parts, self._here, self._ended = 0, False, False
        self._purpose: bytes | None = None
        self._of_purpose = False
        self._parser = MultipartParser(
            options[b"boundary"],
            {
                "on_part_begin": self._begin,
                "on_header_field": self._name_header,
                "on_header_value": self._read_header,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._write,
                "on_part_end": self._close_part,
                "on_end": self._end,
            },
        )

    def write(self, piece: bytes) -> None:
        self._parser.write(piece)

    def file(self) -> Upload:
        """Return the form's file, after the last `write`."""
        self._parser.finalize()
        if not self._ended:
            raise invalid("the form is cut off before its last boundary")
        if self._incoming is None:
            raise RequestError(400, "missing_file", f"the form has no file; send one as its field {FIELD!r}", FIELD)
        return self._incoming.keep(VISION if self._purpose is None else self._purpose.decode())

    def close(self) -> None:
        if self._incoming is not None:
            self._incoming.close()

    def _begin(self) -> None:
        self._disposition, self._here, self._of_purpose = b"", False, False
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise invalid(f"the form has more than {MOST_PARTS} parts")

    def _name_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _read_header(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") == PURPOSE.encode() and b"filename" not in options:
            self._purpose, self._of_purpose = b"", True
        if options.get(b"name") != FIELD.encode() or b"filename" not in options:
            return
        if self._incoming is not None:
            raise invalid("the form has more than one file")
        self._incoming = self._uploads.begin(_text(options[b"filename"]) or FIELD, self._owner)
        self._here = True

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._of_purpose and self._purpose is not None:
            self._purpose = (self._purpose + data[start:end])[:LONGEST_PURPOSE]
        if not self._here or self._incoming is None:
            return
        if self._incoming.size + end - start > self._most:
            message = f"the file is larger than this server allows, {self._most} bytes (--max-download)"
            raise RequestError(413, "file_too_large", message, FIELD)
        self._incoming.write(data[start:end])

    def _close_part(self) -> None:
        if self._of_purpose and self._purpose not in {one.encode() for one in PURPOSES}:
            given = (self._purpose or b"").decode(errors="replace")
            message = f"{PURPOSE}: {given!r} is none of {', '.join(map(repr, PURPOSES))}"
            raise RequestError(400, "invalid_request", message, PURPOSE)

    def _end(self) -> None:
        self._ended = True


def invalid(reason: str) -> RequestError:
    return RequestError(400, "invalid_form", f"expected a form with a file: {reason}", FIELD)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")
