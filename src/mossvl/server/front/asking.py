"""Questions of the front itself to a replica."""

import asyncio

import h11


async def ask(path: str, target: str, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """GET from the server on a Unix socket; return status and body.

    Raises:
        OSError: the server cannot be reached.
        EOFError: it has not answered whole.
    """
    http = h11.Connection(h11.CLIENT)
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        asked = h11.Request(method="GET", target=target, headers=[*headers, (b"connection", b"close")])
        writer.write((http.send(asked) or b"") + (http.send(h11.EndOfMessage()) or b""))
        status, body = 0, b""
        while True:
            match http.next_event():
                case h11.NEED_DATA:
                    http.receive_data(await reader.read(1 << 16))
                case h11.Response(status_code=code):
                    status = code
                case h11.Data(data=data):
                    body += data
                case h11.EndOfMessage():
                    return status, body
                case _:
                    raise EOFError
    except h11.RemoteProtocolError as error:
        raise EOFError from error
    finally:
        writer.close()
