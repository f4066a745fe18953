"""Image files: formats, headers and pixels, within `MediaLimits` instead of Pillow's own limit."""

import io
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, ImageOps, features
from PIL import Image as pillow
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mossvl.errors import MediaError
from mossvl.media import png, rgb
from mossvl.media.limits import MediaLimits

# Formats that are tried. Left out: formats that run another program (EPS, WMF), that hold no image of their own, and
# that have no signature and so accept any file.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI")
_FEATURES = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
_HEVC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AV1_BRANDS = {b"avif", b"avis"}
_ANY_CODEC = {b"mif1", b"msf1"}
_HEAD_BYTES = 64
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap height and width.


# --- Pillow's limit --------------------------------------------------------------------------------------------------

_pillows_check: Any = pillow._decompression_bomb_check
_ours: ContextVar[tuple[str, MediaLimits] | None] = ContextVar("ours", default=None)


def _check_before_memory_is_taken(size: tuple[int, int], **options: Any) -> None:
    """Check our limit inside `_within`, Pillow's elsewhere.

    Replaces Pillow's decompression bomb check, whose limit is global to the process and lower than ours. Pillow calls
    the check before it allocates pixels, also in formats that decode while they are opened.
    """
    given = _ours.get()
    if given is None:
        _pillows_check(size, **options)
    else:
        check_pixels(given[0], size[::-1], given[1])


setattr(pillow, "_decompression_bomb_check", _check_before_memory_is_taken)  # noqa: B010 mypy knows it as a function


def check_pixels(name: str, size: tuple[int, int], limits: MediaLimits) -> None:
    """Raise MediaError if `size` (height, width) has no pixels, or more than `limits.image_pixels`."""
    height, width = size
    if height * width > limits.image_pixels:
        raise MediaError(
            f"{name}: {width} x {height} pixels, more than the {limits.image_pixels} allowed",
            setting="MediaLimits.image_pixels",
            advice="; use a smaller image or raise {}",
        )
    if height * width == 0:
        raise MediaError(f"{name}: {width} x {height} pixels; expected an image with at least one")


@contextmanager
def _within(name: str, limits: MediaLimits) -> Iterator[None]:
    """Apply our limit instead of Pillow's; turn whatever Pillow raises for broken data into MediaError."""
    token = _ours.set((name, limits))
    try:
        yield
    except MediaError:
        raise
    except Exception as error:
        raise MediaError(f"{name}: broken or truncated image ({error or type(error).__name__})") from error
    finally:
        _ours.reset(token)


# --- opening ---------------------------------------------------------------------------------------------------------


@contextmanager
def open_pillow(name: str, data: bytes | Path, limits: MediaLimits) -> Iterator[pillow.Image]:
    """Open an image without decoding its pixels; check its size; close it when the context ends.

    Uses Pillow's format registry, as `Image.open` would try every format.

    Raises:
        MediaError: not an image of a known format, broken, or larger than `limits.image_pixels`.
    """
    pillow.init()
    with ExitStack() as stack:
        with _within(name, limits):
            file: IO[bytes] = io.BytesIO(data) if isinstance(data, bytes) else data.open("rb")
            stack.enter_context(file)
            image = stack.enter_context(_identify(name, file))
        pillow_size(name, image, limits)
        yield image


def pillow_size(name: str, image: pillow.Image, limits: MediaLimits) -> tuple[int, int]:
    """Return (height, width) after the EXIF orientation. Raises MediaError if the size is beyond the limits."""
    width, height = image.size
    with _within(name, limits):
        check_pixels(name, (height, width), limits)
        # Pillow applies the orientation to the size of a TIFF by itself.
        transposed = image.format != "TIFF" and _orientation(image) in _TRANSPOSED
    return (width, height) if transposed else (height, width)


def _identify(name: str, file: IO[bytes]) -> pillow.Image:
    start = file.read(_HEAD_BYTES)
    file.seek(0)
    if _is_heif(start):
        return _heif_plugin(name)(file, "")
    for format_name in _readable():
        factory, accepts = pillow.OPEN[format_name]
        if accepts is None or not accepts(start):
            continue
        file.seek(0)
        try:
            return factory(png.without_texts(file) if format_name == "PNG" else file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # Another format, or truncated.
    expected = [*_readable(), *(["HEIF"] if find_spec("pillow_heif") else [])]
    raise MediaError(
        f"{name}: not an image that can be read; expected a complete file of one of {', '.join(expected)}; "
        "if it is a video, give it as one"
    )


def begins_as_image(start: bytes) -> bool:
    """Whether a file's first 64 bytes are those of an image of a known format."""
    pillow.init()
    return _is_heif(start) or any(
        accepts is not None and bool(accepts(start)) for _, accepts in (pillow.OPEN[name] for name in _readable())
    )


def _readable() -> list[str]:
    """Return the formats whose decoder this build of Pillow has."""
    registered = [name for name in _FORMATS if name in pillow.OPEN]
    return [name for name in registered if name not in _FEATURES or features.check(_FEATURES[name])]


def _is_heif(start: bytes) -> bool:
    """Whether a file begins as HEIF with HEVC; its `ftyp` brands alone tell it from AVIF."""
    length = int.from_bytes(start[:4], "big")
    brands = {start[place : place + 4] for place in (8, *range(16, min(length, len(start)), 4))}
    known = brands & _HEVC_BRANDS or (brands & _ANY_CODEC and not brands & _AV1_BRANDS)
    return start[4:8] == b"ftyp" and bool(known)


def _heif_plugin(name: str) -> Any:
    registered = pillow.OPEN.get("HEIF")
    if registered is not None:
        return registered[0]
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise MediaError(
            f"{name}: a HEIF image, which Pillow reads with a plug-in that is not installed; pip install pillow-heif "
            "(the extra 'heif' of mossvl), or convert it to JPEG"
        ) from None
    return HeifImageFile


def _orientation(image: pillow.Image) -> int | None:
    """The EXIF orientation; None without one.

    `getexif` of a PNG decodes the pixels to find an eXIf chunk after them; like browsers, we ignore such a chunk.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return None
    found: int | None = image.getexif().get(ExifTags.Base.Orientation)
    return found


# --- decoding --------------------------------------------------------------------------------------------------------


def decode_pillow(name: str, image: pillow.Image, limits: MediaLimits) -> rgb.Pixels:
    """Decode to uint8 (height, width, 3), EXIF orientation applied. Raises MediaError if the data are broken."""
    with _within(name, limits):
        if isinstance(image, PngImageFile):
            png.scale_transparent_value(image)
        if isinstance(image, WebPImageFile) and image.is_animated:
            # Canvas that no frame covers is transparent, even if the header declares no alpha.
            image.rawmode = image._mode = "RGBA"
        image.load()
        # Where there is nothing to do, `exif_transpose` copies the image, and holds the GIL.
        return rgb.from_pillow(image if _orientation(image) in (None, 1) else ImageOps.exif_transpose(image))
