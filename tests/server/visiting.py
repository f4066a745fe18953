"""Visits to the page in Debian's Chromium: what is done and looked at again and again."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mossvl.server.samples import FOLDER, SAMPLES

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
expect.set_options(timeout=60_000)  # of a busy machine

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
)
PICTURE = Path(__file__).parents[2] / "examples" / "shapes.png"
CLIP = FOLDER / SAMPLES[0]["file"]
STAR = SAMPLES[0]
BROKEN = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no video at all"}


@dataclass
class Visit:
    """A page, and what went wrong in it that should not.

    Attributes:
        failing: HTTP statuses that the test provokes.
    """

    page: "playwright.Page"
    failing: set[int] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def hear(self, message: "playwright.ConsoleMessage") -> None:
        provoked = any(f"status of {status}" in message.text for status in self.failing)
        if message.type in ("error", "warning") and not provoked:
            self.errors.append(message.text)


def load_sample(page, sample=STAR) -> None:
    page.get_by_role("button", name=sample["name"]).click()
    expect(page.locator(".frame").first).to_be_visible()


def ask(page, question: str) -> str:
    """Ask, wait for the whole answer, and give it."""
    count = page.locator("#turns > li").count()
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator("#turns > li")).to_have_count(count + 1)
    finished(page)
    return page.locator(".answer .text").last.text_content()


def finished(page) -> None:
    expect(page.locator(".answer").last).not_to_have_class(re.compile("running"))


def limit(page, media=None, **caps) -> None:
    """Open the page as if the server had other limits, and the model other options of media."""

    def changed(route):
        served = route.fetch().json()
        served["data"][0]["mossvl"]["caps"] |= caps
        served["data"][0]["mossvl"]["media"] |= media or {}
        route.fulfill(json=served)

    page.route("**/v1/models", changed)
    page.reload()
    expect(page.locator("#model")).to_have_text("mossvl-tiny")


def exported(page) -> dict:
    """The conversation, as its export has it."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    return json.loads(Path(download.value.path()).read_text())


def expect_time(page, seconds: float) -> None:
    expect(page.locator("#player")).to_have_js_property("currentTime", seconds)


def slide(page, name: str, steps: int) -> None:
    """Move a slider by the keyboard."""
    page.get_by_role("slider", name=name).focus()
    for _ in range(abs(steps)):
        page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")


def vision_tokens(page) -> int:
    return int(re.search(r"([\d,]+) vision tokens", page.locator("#cost").text_content())[1].replace(",", ""))


def sideways(page) -> int:
    """By how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
