"""A replica's response: its head, where its body ends, and where it can be cut; told by the bytes that pass.

A replica is one of our own servers, whose responses need no check beyond this.
"""

from collections.abc import Mapping

SIZE_LINE = 64
"""Most bytes of the line before a chunk."""


class BrokenResponse(Exception):
    """A replica's response is no HTTP."""


def response_head(data: bytes) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Return status, reason and headers of a response's head.

    Raises:
        BrokenResponse: it is none.
    """
    first, *lines = data.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    code, _, reason = rest.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not code.isdigit():
        raise BrokenResponse("no response")
    pairs = (line.partition(b":") for line in lines)
    return int(code), reason, [(name, value.strip()) for name, _, value in pairs]


class ResponseBody:
    """The body of a response, of which bytes are passed on in whole chunks, so that an event may follow any of them.

    Args:
        headers: of the response, with names in lower case.
        bare: the response has no body, whatever its headers say.
        unchunked: the client knows no chunks; what is in them is passed on.

    Attributes:
        chunked: whether the client gets chunks.
        over: whether all has passed.
    """

    def __init__(self, headers: Mapping[bytes, bytes], bare: bool, unchunked: bool) -> None:
        self._in_chunks = not bare and headers.get(b"transfer-encoding", b"").lower() == b"chunked"
        length = headers.get(b"content-length")
        self._left: int | None = 0 if bare else None if self._in_chunks or length is None else int(length)
        self.chunked = self._in_chunks and not unchunked
        self.over = self._left == 0
        self._held = b""

    def pass_on(self, data: bytes) -> bytes:
        """Return what of the bytes so far, and these, is to be passed on now.

        Raises:
            BrokenResponse: they are no chunks, or more than there may be.
        """
        if self._in_chunks:
            return self._chunks(self._held + data if self._held else data)
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise BrokenResponse("more bytes than the response's length")
            self.over = self._left == 0
        return data

    def _chunks(self, data: bytes) -> bytes:
        position, inner = 0, []
        while not self.over and (line := data.find(b"\r\n", position, position + SIZE_LINE)) >= 0:
            try:
                size = int(data[position:line].partition(b";")[0], 16)
            except ValueError as error:
                raise BrokenResponse("no size of a chunk") from error
            end = line + 2 + size + 2
            if end > len(data):
                break
            if not self.chunked:
                inner.append(data[line + 2 : end - 2])
            position, self.over = end, size == 0
        self._held = data[position:]
        return data[:position] if self.chunked else b"".join(inner)

    def last(self, event: bytes) -> bytes:
        """Return the bytes that add an event, which may be empty, and end the body."""
        if not self.chunked:
            return event
        return (b"%x\r\n%b\r\n" % (len(event), event) if event else b"") + b"0\r\n\r\n"
