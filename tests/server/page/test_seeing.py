"""What the model will see is shown before anything is asked."""

from visiting import PICTURE, ask, expect, expect_time, limit, load_sample, slide, vision_tokens

from mossvl.server.samples import FOLDER, SAMPLES


def test_a_sample_shows_the_frames_that_the_model_will_see(page):
    load_sample(page)
    expect(page.locator(".frame")).to_have_text(["0.0 s", "1.0 s", "2.0 s", "3.0 s", "4.0 s", "5.0 s", "6.0 s"])
    expect(page.locator(".frame img").first).to_have_js_property("complete", True)
    expect(page.locator("#cost")).to_contain_text("7 frames")
    expect(page.get_by_label("Your question")).to_be_focused()


def test_sliders_change_frames_and_tokens(page):
    load_sample(page)
    before = vision_tokens(page)
    slide(page, "Frames", 1)
    expect(page.locator("#rate-value")).to_have_text("2 a second")
    expect(page.locator("#cost")).to_contain_text("13 frames")
    assert vision_tokens(page) > before
    slide(page, "At most", -20)
    expect(page.locator("#cost")).to_contain_text("1 frame ·")
    slide(page, "Resolution", -1)
    expect(page.locator("#pixels-value")).to_have_text("≈ 96 × 96")
    expect(page.locator("#cost")).not_to_contain_text("128 × 96")
    page.get_by_role("button", name="Back to the model’s defaults").click()
    expect(page.locator("#cost")).to_contain_text("7 frames · 128 × 96 pixels each")
    assert vision_tokens(page) == before


def test_a_frame_leads_to_its_time(page):
    load_sample(page)
    page.get_by_role("button", name="Go to 3.0 s").click()
    expect_time(page, 3)
    expect(page.get_by_role("button", name="Go to 3.0 s")).to_have_attribute("aria-current", "true")


def test_a_picture_is_shown_and_asked_about(page):
    page.locator("#files").set_input_files(PICTURE)
    expect(page.get_by_role("img", name="shapes.png")).to_be_visible()
    expect(page.locator("#cost")).to_contain_text("128 × 96 pixels")
    expect(page.get_by_role("slider", name="Frames")).to_be_hidden()
    before = vision_tokens(page)
    slide(page, "Resolution", -1)
    expect(page.locator("#cost")).not_to_contain_text("128 × 96 pixels")
    assert vision_tokens(page) < before
    page.get_by_role("button", name="Back to the model’s defaults").click()
    assert "striped" in ask(page, "Is the orange square plain, striped or dotted?")


def test_videos_share_the_frames_that_the_server_allows(page):
    limit(page, max_frames=8)
    clips = [FOLDER / sample["file"] for sample in SAMPLES[:2]]
    page.locator("#files").set_input_files(clips[0])
    expect(page.locator("#cost")).to_contain_text("7 frames")
    page.locator("#files").set_input_files(clips[1])
    expect(page.locator("#cost")).to_contain_text("4 frames")
    page.get_by_role("button", name="star.mp4", exact=True).click()
    expect(page.locator("#cost")).to_contain_text("4 frames")
    page.get_by_role("button", name="Remove meeting.mp4").click()
    expect(page.locator("#cost")).to_contain_text("7 frames")


def test_files_are_dropped_and_pasted(page):
    give = """([kind, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(bytes)], `${kind}.png`, { type: "image/png" }));
        const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
        const event = kind === "drop" ? new DragEvent(kind, options) : new ClipboardEvent(kind, options);
        document.getElementById("question").dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(give, [kind, [*PICTURE.read_bytes()]])
        expect(page.get_by_role("img", name=f"{kind}.png")).to_be_visible()
    expect(page.locator("#cost")).to_contain_text("vision tokens in all")
    page.get_by_role("button", name="Remove paste.png").click()
    expect(page.locator(".card")).to_have_text(["drop.png"])
