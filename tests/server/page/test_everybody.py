"""The page with the keyboard, on a phone, in light and dark, and at rest."""

import re

import pytest
from visiting import STAR, ask, expect, expect_time, finished, load_sample, sideways

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
TEXT_CONTRAST = 4.5  # WCAG 2.2, AA


def test_everything_can_be_done_with_the_keyboard(page):
    def focused() -> str:
        return page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id")

    def go(key: str, to: str) -> None:
        for _ in range(40):
            page.keyboard.press(key)
            if focused() == to:
                return
        raise AssertionError(f"{key} does not lead to {to!r}")

    page.keyboard.press("Tab")
    assert focused() == "Skip to the question"
    go("Tab", STAR["name"])
    page.keyboard.press("Enter")
    expect(page.locator(".frame")).to_have_count(7)
    expect(page.get_by_label("Your question")).to_be_focused()
    page.keyboard.type("Describe")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("the clip.")
    assert page.get_by_label("Your question").input_value() == "Describe\nthe clip."
    page.keyboard.press("Control+A")
    page.keyboard.type("Describe the clip.")
    page.keyboard.press("Enter")
    expect(page.locator(".answer .text")).to_contain_text("to the right")
    finished(page)
    go("Shift+Tab", "4.0 seconds")
    page.keyboard.press("Enter")
    expect_time(page, 4)
    go("Shift+Tab", "1.0 s")
    page.keyboard.press("Space")
    expect_time(page, 1)
    go("Shift+Tab", "Settings")
    page.keyboard.press("Enter")
    go("Tab", "system")
    page.keyboard.press("Escape")
    assert focused() == "Settings"


def test_every_control_has_a_name(page):
    load_sample(page)
    page.get_by_text("Settings").click()
    ask(page, "Describe the clip.")
    controls = page.locator("button:visible, input:visible, textarea:visible, video:visible, summary:visible")
    for control in controls.all():
        named = control.evaluate(
            """one => one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.[0]?.textContent.trim()
                || one.getAttribute("aria-hidden") === "true" """
        )
        assert named, control.evaluate("one => one.outerHTML")


@pytest.mark.parametrize(
    "settings", [{"color_scheme": "light"}, {"color_scheme": "dark"}], ids=lambda one: one["color_scheme"]
)
def test_texts_stand_out_in_both_schemes(page, settings):
    load_sample(page)
    ask(page, "Describe the clip.")
    dark = settings["color_scheme"] == "dark"
    assert (luminance(colours(page.locator("body"))[1]) < 0.1) == dark
    page.get_by_text("Settings").click()
    for selector in (
        *(
            ".question p",
            ".about",
            ".answer .text",
            ".facts",
            ".copy",
            ".download",
            ".time",
            ".chip",
            "#question",
            "#keys",
            "#send",
        ),
        *("h1", "#model", "#export", "#cost", ".frame span", ".frame[aria-current] span", "#adjust summary"),
        *("#rate-value", ".sliders label", ".card .name", "#pick", "#url-add", "#sample-buttons span", "#key-hint"),
    ):
        text, behind = (luminance(colour) for colour in colours(page.locator(selector).first))
        contrast = (max(text, behind) + 0.05) / (min(text, behind) + 0.05)
        assert contrast >= TEXT_CONTRAST, f"{selector}: {contrast:.2f}"


def colours(element) -> tuple[list[float], list[float]]:
    """Of an element's text, and of what is behind it: sRGB, 0 to 255."""
    text, behind = element.evaluate(
        """one => {
            const background = element => getComputedStyle(element).backgroundColor;
            let behind = one;
            const transparent = /rgba\\(.*, 0\\)/;
            while (behind !== document.body && transparent.test(background(behind))) behind = behind.parentElement;
            return [getComputedStyle(one).color, background(behind)];
        }"""
    )
    return [float(one) for one in re.findall(r"[\d.]+", text)[:3]], [
        float(one) for one in re.findall(r"[\d.]+", behind)[:3]
    ]


def luminance(colour: list[float]) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    linear = [
        one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in (part / 255 for part in colour)
    ]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("settings", [PHONE], ids=["360 pixels"])
def test_a_phone_shows_all_of_it(page):
    assert sideways(page) == 0
    load_sample(page)
    page.locator("#adjust summary").tap()
    assert sideways(page) == 0
    ask(page, "Describe the clip.")
    assert sideways(page) == 0
    page.locator(".time").last.tap()
    expect_time(page, 4)
    for selector in ("#player", ".answer .text", "#question"):  # side by side there is no room; all are in sight
        expect(page.locator(selector)).to_be_in_viewport()
    for name in ("New conversation", "Export"):
        expect(page.get_by_role("button", name=name)).to_be_in_viewport(ratio=1)
    player, bar = page.locator("#player").bounding_box(), page.locator(".bar").bounding_box()
    assert player["y"] >= bar["y"] + bar["height"] and player["height"] <= 0.34 * PHONE["viewport"]["height"]
    page.locator("#settings summary").tap()
    expect(page.get_by_label("API key")).to_be_visible()
    assert sideways(page) == 0


@pytest.mark.parametrize("settings", [PHONE | {"viewport": {"width": 740, "height": 360}}], ids=["740 × 360 pixels"])
def test_a_phone_on_its_side_has_player_and_conversation_side_by_side(page):
    load_sample(page)
    ask(page, "Describe the clip.")
    for selector in ("#player", ".answer .text", "#question", "#new", "#export"):
        expect(page.locator(selector)).to_be_in_viewport(ratio=0.99)
    player, answer = page.locator("#player").bounding_box(), page.locator(".answer .text").bounding_box()
    assert player["x"] + player["width"] < answer["x"]
    assert sideways(page) == 0
    page.locator("#settings summary").tap()
    page.get_by_role("button", name="Done").scroll_into_view_if_needed()
    expect(page.get_by_role("button", name="Done")).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize("settings", [{"reduced_motion": "reduce"}], ids=["reduced motion"])
def test_nothing_moves_where_people_do_not_want_it(page):
    load_sample(page)
    page.get_by_label("Your question").fill("Describe the clip.")
    page.keyboard.press("Enter")
    assert page.evaluate("document.getAnimations().length") == 0
    finished(page)
