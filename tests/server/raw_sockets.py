"""The bytes of WebSockets, for clients that no library would be."""

import base64
import os
import struct

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def handshake(path, port):
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", f"host: 127.0.0.1:{port}", "upgrade: websocket", "connection: upgrade"]
    lines += [f"sec-websocket-key: {key}", "sec-websocket-version: 13", "", ""]
    return "\r\n".join(lines).encode()


def frame(kind, data=b"", fin=True):
    """A frame of a client, whose mask changes nothing."""
    size = len(data)
    if size < 126:
        head = bytes([0x80 | size])
    elif size < 1 << 16:
        head = bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        head = bytes([0x80 | 127]) + struct.pack("!Q", size)
    return bytes([kind | 0x80 * fin]) + head + bytes(4) + data
