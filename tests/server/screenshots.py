"""Takes the documentation's pictures of the page, `docs/page.png`, `docs/page-phone.png` and, moving, `docs/tour.webp`.

    mossvl serve
    ./run python tests/server/screenshots.py http://127.0.0.1:8000

The server must answer with mossvl-tiny; see `visiting.py` for what else is needed.
"""

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

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
SMALL = {"viewport": {"width": 1000, "height": 640}}
LARGEST = 200_000  # bytes
POINTER = """() => {
  const dot = document.createElement("div");
  dot.style.cssText = "position: fixed; z-index: 99; width: 18px; height: 18px; margin: -9px; border-radius: 50%; " +
    "background: #0007; border: 2px solid #fff; pointer-events: none; left: 60%; top: 60%";
  document.body.append(dot);
  addEventListener("mousemove", (moved) => {
    dot.style.left = `${moved.clientX}px`;
    dot.style.top = `${moved.clientY}px`;
  }, true);
}"""
"""Shows where the mouse is: screenshots do not."""


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
        Tour(visit(browser, url, SMALL)).take(DOCS / "tour.webp")


class Tour:
    """A clip, an answer, and a time in it that seeks the player, as a moving picture."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.pictures: list[Image.Image] = []
        self.seconds: list[float] = []
        self.at = 600.0, 400.0
        page.evaluate(POINTER)

    def take(self, path: Path) -> None:
        page = self.page
        page.wait_for_load_state("networkidle")
        self.shoot(1.0)
        self.click(page.get_by_role("button", name="A star comes and goes"))
        expect(page.locator(".frame").last).to_be_visible()
        page.wait_for_timeout(500)
        self.shoot(1.5)
        self.click(page.get_by_label("Your question"))
        for letter in "When does the blue star appear?":
            page.keyboard.type(letter)
            self.shoot(0.05)
        page.keyboard.press("Enter")
        self.until_answered()
        self.click(page.get_by_role("button", name="2.0 seconds").last)
        self.rest(1.5)
        self.click(page.locator("#chips").get_by_role("button", name="Describe the clip.", exact=True))
        self.until_answered()
        self.click(page.get_by_role("button", name="4.0 seconds").last)
        self.rest(3.0)
        durations = [round(1000 * seconds) for seconds in self.seconds]
        first, *others = self.pictures
        first.save(path, save_all=True, append_images=others, duration=durations, quality=75, method=6, loop=0)

    def shoot(self, seconds: float) -> None:
        """Take a picture that is shown so long."""
        self.seconds.append(seconds)
        self.pictures.append(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))

    def rest(self, seconds: float) -> None:
        """Let the page move on its own."""
        for _ in range(round(seconds / 0.25)):
            self.shoot(0.25)
            self.page.wait_for_timeout(100)

    def until_answered(self) -> None:
        self.shoot(0.3)
        while self.page.locator(".running").count():
            self.shoot(0.1)
        self.shoot(1.5)

    def click(self, what: Locator, steps: int = 8) -> None:
        what.scroll_into_view_if_needed()
        box = what.bounding_box()
        assert box is not None
        target = box["x"] + min(box["width"] / 2, 120), box["y"] + box["height"] / 2
        for share in (step / steps for step in range(1, steps + 1)):
            eased = share * share * (3 - 2 * share)
            self.page.mouse.move(*(old + (new - old) * eased for old, new in zip(self.at, target, strict=True)))
            self.shoot(0.05)
        self.at = target
        self.page.mouse.click(*target)
        self.shoot(0.2)


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
