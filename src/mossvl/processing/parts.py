"""Parts of messages, as other libraries spell them and as this one does."""

import base64
from collections.abc import Mapping
from typing import Any

from mossvl.options.checks import present

Message = dict[str, Any]
"""{"role": …, "content": a text or a list of parts}."""


def known_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part as this package spells it, without null keys.

    OpenAI's {"type": "image_url", "image_url": {"url": …}} and "video_url", and transformers' {"type": "image", "url" |
    "path" | "base64": …} become {"type": "image" | "video", that name: …}. What is none of these stays as it is.
    """
    found = present(part)
    for kind in ("image", "video"):
        source = found.get(f"{kind}_url")
        if source is not None and found.get("type") in (None, f"{kind}_url"):
            own = present(source) if isinstance(source, Mapping) else {"url": source}
            own.pop("detail", None)
            rest = {name: value for name, value in found.items() if name not in ("type", f"{kind}_url")}
            return {"type": kind, kind: own.pop("url", None), **own, **rest}
        if found.get("type") == kind and kind not in found:
            name = next((name for name in ("url", "path", "base64") if name in found), None)
            if name is not None:
                source = found.pop(name)
                found[kind] = {"bytes": source} if name == "base64" else source
    return found


def known_medium(medium: Any, kind: str) -> Any:
    """A medium, also if it is one of a table's columns: {"bytes": the file, or its base64; "path": …}, either null."""
    if not isinstance(medium, Mapping) or not medium.keys() <= {"bytes", "path"}:
        return medium
    content = medium.get("bytes")
    if content is None:
        path = medium.get("path")
        return medium if path is None else path
    if kind == "video" and isinstance(content, bytes):
        content = base64.b64encode(content).decode()
    return f"data:;base64,{content}" if isinstance(content, str) else content
