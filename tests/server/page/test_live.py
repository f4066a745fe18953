"""The live page, with the browser's fake camera and a file: it watches, speaks, is asked, interrupted and ended."""

import re

import pytest
from visiting import CLIP, expect


@pytest.fixture
def live(page):
    page.get_by_role("link", name="Live").click()
    expect(page.locator("#model")).to_have_text("mossvl-tiny")
    return page


def test_a_camera_is_watched_and_the_model_is_asked_interrupted_and_left(live):
    live.get_by_label("What the model is to tell you").fill("Tell me when a star appears.")
    live.get_by_role("button", name="Camera").click()
    expect(live.locator("#said .asked")).to_have_text("Tell me when a star appears.")
    expect(live.locator("#seen li:not(.waits)").first).to_be_visible()
    expect(live.locator("#lag")).to_have_text(re.compile(r"Seen up to \d+\.\d s, \d+ ms after it was shown"))
    assert live.locator("#view").evaluate("view => view.videoWidth") > 0
    live.get_by_label("What the model is to tell you").fill("What is it?")
    live.keyboard.press("Enter")
    expect(live.locator("#said .asked")).to_have_count(2)
    expect(live.locator("#said li:not(.asked)").first).to_be_visible()
    live.keyboard.press("Escape")
    live.get_by_role("button", name="Interrupt the model").click()
    live.get_by_role("button", name="End").click()
    expect(live.locator("#state")).to_have_text("The session is over.")
    expect(live.get_by_role("button", name="Camera")).to_be_enabled()
    assert live.locator("#view").evaluate("view => view.srcObject") is None


def test_a_file_is_played_as_live_with_its_own_times(live):
    live.locator("#fps").select_option("2")
    live.locator("#file").set_input_files(CLIP)
    first = live.locator("#seen li:not(.waits)").first
    expect(first).to_contain_text("0.")
    live.get_by_role("button", name="End").click()
    expect(live.locator("#state")).to_have_text("The session is over.")


def test_tabs_have_sessions_of_their_own(live):
    other = live.context.new_page()
    other.goto(live.url)
    for page in (live, other):
        page.get_by_role("button", name="Camera").click()
    for page in (live, other):
        expect(page.locator("#seen li:not(.waits)").first).to_be_visible()
    other.close()  # Its session ends with it, and the other one goes on.
    live.get_by_label("What the model is to tell you").fill("And now?")
    live.keyboard.press("Enter")
    expect(live.locator("#said .asked")).to_have_count(1)
    live.get_by_role("button", name="End").click()
    expect(live.locator("#state")).to_have_text("The session is over.")


def test_every_control_of_the_live_page_has_a_name_and_the_keyboard_reaches_it(live):
    for control in live.locator("button:visible, select:visible, textarea:visible, video:visible").all():
        named = control.evaluate(
            """one => one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.[0]?.textContent.trim()"""
        )
        assert named
    live.keyboard.press("Tab")
    reached = set()
    for _ in range(12):
        reached.add(live.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        live.keyboard.press("Tab")
    assert {"Skip to the question", "Ask", "Live", "camera", "screen", "pick", "fps", "question"} <= reached


def test_a_file_that_cannot_be_played_is_told(live, tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    live.locator("#file").set_input_files(tmp_path / "notes.mp4")
    expect(live.locator("#notice")).to_contain_text("cannot play the video")
    expect(live.locator("#state")).to_have_text("The session is over.")
