"""What the model will see is shown before anything is asked."""

import json
from pathlib import Path

import pytest
from media.clips import write_clip
from visiting import CLIP, PICTURE, ask, expect, expect_time, limit, load_sample, slide, vision_tokens

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


def test_labels_tell_neighbours_apart(page):
    load_sample(page)
    slide(page, "Frames", 12)
    expect(page.locator("#rate-value")).to_have_text("30 a second")
    expect(page.locator(".frame")).to_have_count(64)
    shown = page.locator(".frame").all_text_contents()
    assert len(set(shown)) == len(shown)
    labels = "times => import('/page/times.js').then(({ labels }) => labels(times))"
    assert page.evaluate(labels, [0, 4.319999999999999, 4.34]) == ["0.00 s", "4.32 s", "4.34 s"]
    assert page.evaluate(labels, [0.5, 59.96, 3723]) == ["0.5 s", "1:00.0", "1:02:03.0"]


def test_the_budget_of_pixels_is_told(page):
    limit(page, {"min_pixels": 4096, "video_max_pixels": 256 * 4096}, max_frames=1024)
    page.route("**/v1/media/frames", many_frames)
    page.locator("#files").set_input_files(CLIP)
    expect(page.locator("#cost")).not_to_contain_text("budget")
    slide(page, "At most", 20)
    slide(page, "Frames", 12)
    expect(page.locator("#cost")).to_contain_text("256 frames (the model’s pixel budget allows no more)")


def many_frames(route) -> None:
    """As if the clip had a minute."""
    seen = route.fetch().json()
    part = route.request.post_data_json["part"]["video_url"]
    count = min(int(60 * part["fps"]), part["max_frames"], 256)
    frames = [
        {"time": place / 4, "seek": place / 4, "thumbnail": seen["frames"][0]["thumbnail"]} for place in range(count)
    ]
    route.fulfill(json=seen | {"duration": 60, "frames": frames})


def test_a_clip_can_be_downloaded(page):
    load_sample(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the clip").click()
    assert download.value.suggested_filename == CLIP.name
    assert Path(download.value.path()).read_bytes() == CLIP.read_bytes()


def test_a_link_that_is_dropped_is_added(visit):
    visit.failing |= {400, 403}
    page = visit.page
    page.evaluate(
        """url => {
            const dataTransfer = new DataTransfer();
            dataTransfer.setData("text/uri-list", `# a comment\r\n${url}`);
            document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer }));
        }""",
        "http://127.0.0.1:9/clip.mp4",
    )
    expect(page.get_by_label("URL of a picture or a video")).to_have_value("http://127.0.0.1:9/clip.mp4")
    expect(page.locator("#url-trouble .problem")).to_be_visible()


def test_a_frame_leads_to_its_time(page):
    load_sample(page)
    page.get_by_role("button", name="Go to 3.0 s").click()
    expect_time(page, 3)
    expect(page.get_by_role("button", name="Go to 3.0 s")).to_have_attribute("aria-current", "true")


@pytest.fixture
def uneven(tmp_path):
    """Ten seconds that begin at 2.0 on the file's clock: of 25 frames a second for one of them, then one a second."""
    pts = [*range(50, 75), *range(75, 300, 25)]
    return write_clip(tmp_path / "uneven.webm", 34, pts=pts, rate=25, codec="libvpx", options={"deadline": "realtime"})


def test_frames_that_are_not_even_lead_to_when_they_are_shown(page, uneven):
    page.locator("#files").set_input_files(uneven)
    expect(page.locator(".frame")).to_have_text([f"{second}.0 s" for second in range(10)])
    page.get_by_role("button", name="Go to 7.0 s").click()
    expect_time(page, 9)
    expect(page.get_by_role("button", name="Go to 7.0 s")).to_have_attribute("aria-current", "true")


def test_published_times_lead_to_when_frames_are_shown(page, uneven):
    def published(route):
        request = route.request.post_data_json
        request["part"]["video_url"]["timestamps"] = "published"
        route.fulfill(response=route.fetch(post_data=json.dumps(request)))

    page.route("**/v1/media/frames", published)
    page.locator("#files").set_input_files(uneven)
    # Of 34 frames in 9.04 seconds, those of the numbers 0, 3, 7, …, 29 and 33 are seen.
    expect(page.locator(".frame").last).to_have_text("8.8 s")
    page.locator(".frame").last.click()
    expect_time(page, 11)
    answer = {"choices": [{"index": 0, "delta": {"content": "At 8.8 seconds."}, "finish_reason": "stop"}]}
    body = f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.locator(".frame").first.click()
    expect_time(page, 2)
    ask(page, "When?")
    page.locator(".time").click()
    expect_time(page, 11)


@pytest.mark.parametrize(
    ("told", "sought"), [(0, 5), (1.96, 8), (3.02, 9), (2.5, 8.5), (6, 12), (9.5, 15.5), (8.96, 15)]
)
def test_what_lies_between_frames_is_sought_between_them(page, told, sought):
    frames = [{"time": time, "seek": seek} for time, seek in ((0, 5), (2, 8), (3, 9), (9, 15))]
    find = "([frames, time]) => import('/page/times.js').then(({ playerTime }) => playerTime(frames, time))"
    assert page.evaluate(find, [frames, told]) == sought


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
