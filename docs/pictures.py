"""Takes pictures of the built site, and checks that it asks no other host for anything, and draws all diagrams.

.ci/docs && ./run python docs/pictures.py site docs
"""

import functools
import io
import shutil
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

PICTURES = {
    "site-light": ("tutorial/first-answer/", "light", 1280, 760),
    "site-dark": ("explanation/xrope/", "dark", 1280, 760),
    "site-reference": ("reference/commands/", "light", 1280, 760),
    "site-phone": ("howto/timestamps/", "light", 390, 760),
}
"""Page, colours, width and height of each picture."""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


def main(site: Path, folder: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        wrong: list[str] = []

        def opened(path: str, **settings: Any) -> Page:
            page = browser.new_page(**settings)
            page.on("request", lambda request: request.url.startswith(address) or wrong.append(request.url))
            page.on("console", lambda message: message.type != "error" or wrong.append(message.text))
            page.goto(f"{address}/{path}", wait_until="networkidle")
            return page

        for name, (path, colours, width, height) in PICTURES.items():
            page = opened(path, viewport={"width": width, "height": height}, color_scheme=colours)
            taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            taken.save(folder / f"{name}.webp", quality=80, method=6)
            page.close()
        for file in sorted(site.rglob("index.html")):
            page = opened(f"{file.parent.relative_to(site)}/")
            texts = page.locator(".mermaid").all_inner_texts()
            wrong += [f"{file}: a diagram was not drawn" for text in texts if text.startswith("flowchart")]
            page.close()
        browser.close()
    server.shutdown()
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
