"""`data:` URLs, parsed as by browsers: https://fetch.spec.whatwg.org/#data-urls."""

import binascii
import re
from urllib.parse import unquote_to_bytes

from mossvl.errors import MediaError

_EDGES = "".join(map(chr, range(0x21)))  # Stripped from both ends of a URL; `_BREAKS` from all of it.
_BREAKS = str.maketrans("", "", "\t\n\r")
_BASE64 = re.compile(r"; *base64[ ]*$", re.IGNORECASE)
_LONGEST_START = 1000


def is_data_url(source: str) -> bool:
    """Whether a string is a `data:` URL, well-formed or not."""
    start = source[:_LONGEST_START].lstrip(_EDGES).translate(_BREAKS)
    return start[:5].lower() == "data:"


def media_type(url: str) -> str:
    """Return the media type of a `data:` URL in lower case, as "image/png"; "" if the URL names none."""
    return after_scheme(url).partition(",")[0].partition(";")[0].strip().lower()


def read_data_url(url: str, most: int) -> bytes:
    """Decode a `data:` URL.

    Beyond the standard, the URL-safe base64 alphabet (`-` and `_`) is accepted.

    Args:
        most: size limit in bytes.

    Raises:
        MediaError: the URL is malformed, or its data are larger than `most`.
    """
    # Bounds the text before decoding: base64 takes 4/3 characters a byte, percent-encoding 3; whitespace may be added.
    if len(url) > 4 * most + _LONGEST_START:
        raise _too_large(most)
    header, comma, payload = after_scheme(url).partition(",")
    if not comma:
        raise MediaError("data URL: no comma before the data; expected data:<type>;base64,<data>")
    data = unquote_to_bytes(payload.encode(errors="surrogatepass"))
    if _BASE64.search(header):
        data = _from_base64(data)
    if len(data) > most:
        raise _too_large(most)
    return data


def after_scheme(url: str) -> str:
    """Return the text after "data:", without surrounding spaces, line breaks and fragment."""
    return url.strip(_EDGES).translate(_BREAKS)[5:].partition("#")[0]


def _from_base64(data: bytes) -> bytes:
    data = data.translate(bytes.maketrans(b"-_", b"+/"), b" \t\n\f\r")
    if len(data) % 4 == 0:
        data = data.removesuffix(b"=").removesuffix(b"=")
    odd = re.search(rb"[^A-Za-z0-9+/]", data)
    if odd is not None:
        raise MediaError(f"data URL: not valid base64 ({odd[0].decode('latin-1')!r} at character {odd.start()})")
    if len(data) % 4 == 1:
        raise MediaError(f"data URL: not valid base64 ({len(data)} characters, an impossible length: cut off)")
    return binascii.a2b_base64(data + b"=" * (-len(data) % 4))


def _too_large(most: int) -> MediaError:
    return MediaError(f"data URL: larger than {most} bytes", setting="MediaLimits.download_bytes", advice="; raise {}")
