"""Takes the documentation's pictures of the page, `docs/page.png` and `docs/page-phone.png`.

    mossvl serve
    ./run python tests/server/screenshots.py http://127.0.0.1:8000

The server must answer with mossvl-tiny; see `visiting.py` for what else is needed.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
DOCS = Path(__file__).parent.parent.parent / "docs"
LIGHT = {"viewport": {"width": 1280, "height": 860}, "device_scale_factor": 1.5}
DARK_PHONE = {
    "viewport": {"width": 390, "height": 800},
    "device_scale_factor": 2,
    "color_scheme": "dark",
    "is_mobile": True,
    "has_touch": True,
}
LARGEST = 200_000  # bytes


def main(url: str) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = visit(browser, url, LIGHT)
        converse(page, "A star comes and goes", ["When does the blue star appear?", "Describe the clip."])
        page.get_by_role("button", name="Go to 3.0 s").click()
        save(page, "page.png")
        page = visit(browser, url, DARK_PHONE)
        converse(
            page,
            "Two shapes meet",
            ["Do the green square and the orange triangle collide?", "What happens in the clip?"],
        )
        page.locator(".time").last.tap()
        save(page, "page-phone.png")


def visit(browser: Browser, url: str, window: dict) -> Page:
    page = browser.new_page(reduced_motion="reduce", **window)
    page.goto(url)
    return page


def converse(page: Page, sample: str, questions: list[str]) -> None:
    page.get_by_role("button", name=sample).click()
    for question in questions:
        page.locator("#chips").get_by_role("button", name=question, exact=True).click()
        expect(page.locator(".question p").last).to_have_text(question)
        expect(page.locator(".running")).to_have_count(0, timeout=30_000)


def save(page: Page, name: str) -> None:
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.wait_for_timeout(4000)  # until the player hides its controls
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(DOCS / name, optimize=True)
    size = (DOCS / name).stat().st_size
    assert size < LARGEST, f"{name} has {size} bytes"


if __name__ == "__main__":
    main(sys.argv[1])
