"""Parts of messages: other libraries' forms converted to this package's."""

import base64
from collections.abc import Mapping
from typing import Any

from mossvl.options.checks import present

Message = dict[str, Any]
"""{"role": …, "content": a text or a list of parts}."""


def known_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a part of OpenAI or transformers to this package's form, and drop null keys.

    OpenAI's {"type": "image_url", "image_url": {"url": …}} and transformers' {"type": "image", "url" | "path" |
    "base64": …} become {"type": "image", "image": …}; likewise for videos. Other parts are returned as they are.
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
    """Convert a medium of a dataset's table, {"bytes": the file or its base64, "path": …}, to a source.

    Either key may be null or missing. Other media are returned as they are.
    """
    if not isinstance(medium, Mapping) or not medium.keys() <= {"bytes", "path"}:
        return medium
    content = medium.get("bytes")
    if content is None:
        path = medium.get("path")
        return medium if path is None else path
    if kind == "video" and isinstance(content, bytes):
        content = base64.b64encode(content).decode()
    return f"data:;base64,{content}" if isinstance(content, str) else content
