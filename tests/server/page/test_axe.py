"""axe-core looks at the page in all its states; `.ci/clients` installs it where npm is."""

import sys
from pathlib import Path

import pytest
from visiting import BROKEN, ask, expect, load_sample

AXE = Path(sys.prefix) / "npm" / "node_modules" / "axe-core" / "axe.min.js"
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}

pytestmark = pytest.mark.skipif(not AXE.exists(), reason="no axe-core of npm; .ci/clients installs it where npm is")


def violations(page) -> list[str]:
    """What axe-core finds wrong: its rule, and the element."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{rule['help']}: {node['html']}" for rule in found["violations"] for node in rule["nodes"]]


def begun(page) -> None:
    """Nothing is added yet."""


def answered(page) -> None:
    load_sample(page)
    ask(page, "Describe the clip.")
    expect(page.locator(".answer .time").first).to_be_visible()


def settings_open(page) -> None:
    page.locator("#settings summary").click()
    expect(page.get_by_label("API key")).to_be_visible()


def adjusted(page) -> None:
    load_sample(page)
    if not page.get_by_label("Resolution").is_visible():
        page.locator("#adjust summary").click()
    page.get_by_label("Resolution").press("ArrowLeft")
    expect(page.locator("#usual")).to_be_visible()


def drawing(page) -> None:
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def troubled(page) -> None:
    page.locator("#files").set_input_files(BROKEN)
    page.get_by_label("URL of a picture or a video").fill("nothing")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#url-trouble")).not_to_be_empty()
    expect(page.locator("#cards .problem")).to_be_visible()


def live(page) -> None:
    page.locator("#live").click()
    expect(page.get_by_role("button", name="Camera")).to_be_visible()


def watching(page) -> None:
    live(page)
    page.get_by_label("What the model is to tell you").fill("Tell me when a star appears.")
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#seen li").first).to_be_visible()


@pytest.mark.parametrize(
    "state", [begun, answered, settings_open, adjusted, drawing, troubled, live, watching], ids=lambda one: one.__name__
)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"viewport": size, "color_scheme": scheme}, id=f"{scheme} {size['width']}")
        for size in (DESK, PHONE)
        for scheme in ("light", "dark")
    ],
)
def test_axe_finds_nothing_wrong(visit, settings, state):
    visit.failing |= {400, 415, 422}
    state(visit.page)
    assert violations(visit.page) == []
