"""What a visitor draws on the page is asked about at once."""

import pytest
from visiting import expect, finished


def drag(page, start, end) -> None:
    """From one place of the canvas to another, in shares of its width and height."""
    box = page.locator("#sketch").bounding_box()
    first, last = ((box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end))
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*last, steps=4)
    page.mouse.up()


def choose(page, name) -> None:
    page.get_by_role("radio", name=name, exact=True).check()


def pixel(page, x, y) -> str:
    return page.evaluate(
        """([x, y]) => {
            const copy = new OffscreenCanvas(512, 384).getContext("2d", { willReadFrequently: true });
            copy.drawImage(document.getElementById("sketch"), 0, 0);
            return Array.from(copy.getImageData(x, y, 1, 1).data).join();
        }""",
        [x, y],
    )


@pytest.fixture
def canvas(page):
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("dialog", name="Draw something")).to_be_visible()
    return page


def test_a_drawing_is_described_at_once(canvas):
    choose(canvas, "circle")
    choose(canvas, "red")
    drag(canvas, (0.5, 0.5), (0.62, 0.5))
    canvas.get_by_role("button", name="Ask about it").click()
    expect(canvas.get_by_role("dialog")).to_have_count(0)
    expect(canvas.locator(".question")).to_contain_text("Describe the picture.")
    finished(canvas)
    expect(canvas.locator(".answer .text")).to_contain_text("red circle")
    expect(canvas.locator(".card")).to_contain_text("drawing.png")


def test_marks_are_undone_one_by_one_and_cleared(canvas):
    empty = pixel(canvas, 256, 192)
    choose(canvas, "square")
    for colour in ("green", "blue"):
        choose(canvas, colour)
        drag(canvas, (0.5, 0.5), (0.7, 0.5))
    assert pixel(canvas, 256, 192) == "36,98,200,255"
    canvas.get_by_role("button", name="Undo").click()
    assert pixel(canvas, 256, 192) == "47,158,68,255"
    canvas.get_by_role("button", name="Clear").click()
    assert pixel(canvas, 256, 192) == empty
    for name in ("Undo", "Clear", "Ask about it"):
        expect(canvas.get_by_role("button", name=name)).to_be_disabled()


def test_the_keyboard_places_shapes(canvas):
    expect(canvas.locator("#sketch")).to_be_focused()
    for _ in range(5):
        canvas.keyboard.press("ArrowRight")
    canvas.keyboard.press("Space")
    expect(canvas.locator("#drawing-status")).to_have_text("a blue star at 316, 192")
    assert pixel(canvas, 316, 192) == "36,98,200,255" != pixel(canvas, 240, 192)


def test_the_pen_draws_where_it_goes(canvas):
    choose(canvas, "pen")
    choose(canvas, "black")
    drag(canvas, (0.1, 0.5), (0.9, 0.5))
    assert pixel(canvas, 256, 192) == "28,28,28,255"


def test_cancelling_adds_nothing(canvas):
    drag(canvas, (0.5, 0.5), (0.6, 0.5))
    canvas.get_by_role("button", name="Cancel").click()
    expect(canvas.locator(".card")).to_have_count(0)
    expect(canvas.locator(".question")).to_have_count(0)
