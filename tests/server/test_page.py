"""The page, in a browser: what people do with it, with the keyboard, on a phone, and where something goes wrong."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mossvl.data.records import as_query, lines_of, parse_line
from mossvl.engine.query import Query
from mossvl.server.samples import FOLDER, SAMPLES

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PICTURE = Path(__file__).parent.parent.parent / "examples" / "shapes.png"
STAR = SAMPLES[0]
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
TEXT_CONTRAST = 4.5  # WCAG 2.2, AA

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM} (Debian: apt install chromium)")


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


@pytest.fixture(scope="module")  # while a browser is open, no other test of the process can have an event loop
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS.split())


@pytest.fixture
def settings() -> dict:
    """Of the browser window; parametrised by tests that want another one."""
    return {}


@pytest.fixture
def visit(browser, server, settings) -> Iterator[Visit]:
    """The page, opened. At the end: nothing was loaded from elsewhere, and nothing unexpected went wrong."""
    with browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings}) as context:
        page = context.new_page()
        visit = Visit(page)

        def went(request: "playwright.Request") -> None:
            if not request.url.startswith((f"{server.url}/", f"blob:{server.url}/", "data:")):
                visit.elsewhere.append(request.url)

        page.set_default_timeout(20_000)
        page.on("console", visit.hear)
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on("request", went)
        page.goto(server.url)
        expect(page.locator("#model")).to_have_text("mossvl-tiny")
        yield visit
        assert visit.elsewhere == []
        assert visit.errors == []


@pytest.fixture
def page(visit) -> "playwright.Page":
    return visit.page


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
    expect(page.locator(".answer").last).not_to_have_class(re.compile("running"), timeout=30_000)


def limit(page, **caps) -> None:
    """Open the page as if the server had other limits."""

    def changed(route):
        served = route.fetch().json()
        served["data"][0]["mossvl"]["caps"] |= caps
        route.fulfill(json=served)

    page.route("**/v1/models", changed)
    page.reload()
    expect(page.locator("#model")).to_have_text("mossvl-tiny")


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


# --- seeing what the model sees ----------------------------------------------------------------------------------


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


# --- asking ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["file"])
def test_every_suggested_question_gets_the_right_answer(page, sample):
    right = {
        "When does the blue star appear?": "2.0 seconds",
        "How long is the blue star there?": "2.0 seconds",
        "Which way does the red circle move?": "right",
        "Describe the clip.": "At 0.0 seconds there is a red circle. At 2.0 seconds a blue star appears. "
        "At 4.0 seconds the blue star vanishes. The red circle moves to the right.",
        "Do the green square and the orange triangle collide?": "yes",
        "When do the green square and the orange triangle collide?": "3.0 seconds",
        "What happens in the clip?": "At 0.0 seconds there is a green square and an orange triangle. "
        "At 3.0 seconds the green square and the orange triangle collide.",
        "Which colour does the pink heart become?": "yellow",
        "When does the pink heart change its colour?": "4.0 seconds",
        "How often does the black cross appear?": "It appears two times.",
        "What is there at 2.0 seconds?": "A pink heart and a black cross.",
    }
    load_sample(page, sample)
    for question in sample["questions"]:
        page.locator("#chips").get_by_role("button", name=question, exact=True).click()
        expect(page.locator(".question p").last).to_have_text(question)
        finished(page)
        assert page.locator(".answer .text").last.text_content() == right[question]
    expect(page.locator("#chips")).to_be_hidden()


def test_times_in_an_answer_lead_to_the_moment(page):
    load_sample(page)
    ask(page, "Describe the clip.")
    expect(page.locator(".time")).to_have_text(["0.0 seconds", "2.0 seconds", "4.0 seconds"])
    page.locator(".time").last.click()
    expect_time(page, 4)
    page.locator(".time").first.click()
    expect_time(page, 0)


def test_a_further_question_finds_the_clip_in_the_cache(page):
    load_sample(page)
    ask(page, "When does the blue star appear?")
    assert "to the right" in ask(page, "Describe the clip.")
    facts = page.locator(".facts").last
    expect(facts).to_contain_text(re.compile(r"First token \d+\.\d\d s · \d+ tokens/s · \d+ vision tokens"))
    cached, all_tokens = re.search(r"(\d+)/(\d+) text tokens cached", facts.text_content()).groups()
    assert 0 < int(cached) < int(all_tokens)


def test_an_answer_comes_in_pieces_and_can_be_stopped(page):
    load_sample(page)
    network = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": 1000, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", slow)
    page.get_by_label("Your question").fill("Describe the clip.")
    page.keyboard.press("Enter")
    expect(page.locator(".running .text")).to_contain_text("At 0.0")
    page.get_by_role("button", name="Stop the answer").click()
    expect(page.locator(".facts")).to_contain_text("Stopped")
    text = page.locator(".answer .text").text_content()
    assert text.startswith("At 0.0") and "to the right" not in text
    expect(page.get_by_label("Your question")).to_be_focused()
    network.send("Network.emulateNetworkConditions", {**slow, "downloadThroughput": -1})
    assert ask(page, "When does the blue star appear?") == "2.0 seconds"


def test_a_new_conversation_keeps_the_media(page):
    load_sample(page)
    ask(page, "Describe the clip.")
    expect(page.get_by_role("button", name="Remove star.mp4")).to_be_hidden()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("#turns > li")).to_have_count(0)
    expect(page.locator(".frame")).to_have_count(7)
    assert ask(page, "When does the blue star vanish?") == "4.0 seconds"
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("button", name="Remove star.mp4").click()
    expect(page.get_by_role("button", name="Choose files")).to_be_focused()


def test_the_export_is_a_query_of_mossvl_run(page):
    page.get_by_text("Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Most new tokens").fill("99")
    page.keyboard.press("Escape")
    load_sample(page)
    slide(page, "At most", -5)
    answer = ask(page, "When does the blue star appear?")
    ask(page, "When does it vanish?")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "conversation.jsonl"
    with open(download.value.path(), "rb") as file:
        (line,) = lines_of(file)
    record = parse_line(line)
    assert [message["role"] for message in record["messages"]] == ["system", *2 * ["user", "assistant"]]
    query = as_query(record, FOLDER)
    checked = Query.from_dict(query)
    assert checked.generation.max_new_tokens == 99 and checked.generation.greedy
    video, question = query["messages"][1]["content"]
    assert video == {
        "type": "video",
        "video": str(FOLDER / STAR["file"]),
        "video_fps": 1,
        "max_frames": 12,
        "max_pixels": 16384,
    }
    assert question == {"type": "text", "text": "When does the blue star appear?"}
    assert query["messages"][2] == {"role": "assistant", "content": answer}
    assert query["messages"][-1]["content"][-1]["text"] == "When does it vanish?"


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("At 2.0 seconds a star appears.", [2]),
        ("at 3 s", [3]),
        ("between 2.0 and 4.0 seconds", [2, 4]),
        ("1, 2 and 3 seconds; 4-5s", [1, 2, 3, 4, 5]),
        ("at 0:03, 01:02.5 and 1:02:03", [3, 62.5, 3723]),
        ("for 2.0 seconds, 3 seconds long", []),
        ("16:9, 3 squares, 5:60, 2.0", []),
        ("at 2:00:00", []),
    ],
)
def test_times_are_found_in_texts(page, text, times):
    find = "text => import('/page/times.js').then(({ pieces }) => pieces(text, 4000))"
    pieces = page.evaluate(find, text)
    assert "".join(piece["text"] for piece in pieces) == text
    assert [piece["time"] for piece in pieces if "time" in piece] == times


def test_the_little_markdown_of_models_is_shown_as_such(page):
    load_sample(page)
    text = "## Moments\n- **0:02**: a `star` <b>\n* 2 * 3 ** 4"
    event = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
    body = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    assert ask(page, "Describe the clip.") == "Moments\n• 0:02: a star <b>\n• 2 * 3 ** 4"
    expect(page.locator(".answer strong")).to_have_text("Moments")
    expect(page.locator(".answer code")).to_have_text("star")
    expect(page.locator(".answer .time")).to_have_text("0:02")


# --- what goes wrong, in its place -------------------------------------------------------------------------------


def test_a_broken_file_is_told_beside_it(visit):
    visit.failing |= {400, 422}
    page = visit.page
    broken = {"name": "<img src=x onerror=alert(1)>.mp4", "mimeType": "video/mp4", "buffer": b"no video at all"}
    page.locator("#files").set_input_files(broken)
    expect(page.locator(".card .name")).to_have_text(broken["name"])  # a name is no markup
    expect(page.locator(".card .problem")).to_be_visible()
    assert visit.page.locator(".card .problem span").text_content().strip()
    ask(page, "Describe the clip.")
    expect(page.locator(".answer .problem")).to_contain_text("cannot be used")
    page.get_by_role("button", name="Remove").click()
    load_sample(page)
    assert ask(page, "When does the blue star appear?") == "2.0 seconds"


def test_a_bad_url_is_told_beside_the_field(visit):
    visit.failing |= {400, 403, 422}
    page = visit.page
    field = page.get_by_label("URL of a picture or a video")
    for url, words in (
        ("clip.mp4", "This is no URL"),
        ("ftp://example.org/clip.mp4", "begins with https://"),
        ("http://127.0.0.1:9/clip.mp4", ""),
    ):
        field.fill(url)
        page.keyboard.press("Enter")
        expect(page.locator("#url-trouble .problem")).to_contain_text(words)
        expect(field).to_be_focused()
        expect(field).to_have_value(url)
    field.fill("http")
    expect(page.locator("#url-trouble .problem")).to_have_count(0)
    expect(page.locator(".card")).to_have_count(0)


def test_limits_of_the_server_are_told_before_anything_is_sent(page):
    limit(page, max_upload_bytes=1000)
    page.locator("#files").set_input_files(PICTURE)
    expect(page.locator("#add-trouble")).to_contain_text(
        "shapes.png has 3.9 kB; the server takes files of at most 1.0 kB"
    )
    expect(page.locator(".card")).to_have_count(0)
    limit(page, max_media=1)
    page.locator("#files").set_input_files([PICTURE, PICTURE])
    expect(page.locator("#add-trouble")).to_contain_text("at most 1 picture or video")
    expect(page.locator(".card")).to_have_count(1)


def test_an_upload_that_fails_can_be_tried_again(visit):
    visit.failing |= {500}
    page = visit.page
    page.route("**/v1/files", lambda route: route.fulfill(status=500, json={"error": {"message": "the disk is full"}}))
    page.locator("#files").set_input_files(PICTURE)
    expect(page.locator(".card .problem")).to_contain_text("The disk is full.")
    page.unroute("**/v1/files")
    page.locator(".card").get_by_role("button", name="Try again").click()
    expect(page.locator("#cost")).to_contain_text("128 × 96 pixels")
    expect(page.locator(".card .problem")).to_have_count(0)


def test_a_busy_server_is_asked_again_later(visit):
    visit.failing |= {503}
    page = visit.page
    load_sample(page)
    busy = {"status": 503, "headers": {"Retry-After": "9"}, "json": {"error": {"message": "no", "code": "overloaded"}}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**busy))
    ask(page, "When does the blue star appear?")
    expect(page.locator(".answer .problem")).to_contain_text(re.compile(r"The server is busy.*Try again in \d s"))
    page.unroute("**/v1/chat/completions")
    page.locator(".answer").get_by_role("button", name="Try again").click()
    expect(page.locator(".answer .text")).to_have_text("2.0 seconds")
    expect(page.locator(".answer .problem")).to_have_count(0)


def test_an_error_within_an_answer_stays_with_it(page):
    load_sample(page)
    chunk = {"choices": [{"index": 0, "delta": {"content": "At 1.0 "}, "finish_reason": None}]}
    events = [chunk, {"error": {"message": "the engine has stopped", "type": "server_error", "code": None}}]
    body = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events)
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    assert ask(page, "Describe the clip.") == "At 1.0 "
    expect(page.locator(".answer .problem")).to_contain_text("The engine has stopped.")


def test_an_upload_that_the_server_has_forgotten_is_made_again(visit):
    visit.failing |= {404}
    page = visit.page
    with page.expect_response("**/v1/files") as uploaded:
        load_sample(page)
    forget = "id => fetch(`/v1/files/${id}`, { method: 'DELETE' }).then(response => response.status)"
    assert page.evaluate(forget, uploaded.value.json()["id"]) == 200
    assert ask(page, "When does the blue star appear?") == "2.0 seconds"


def test_an_api_key_is_asked_for_and_kept(visit):
    visit.failing |= {401}
    page = visit.page

    def guard(route):
        if route.request.headers.get("authorization") == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": {"message": "no key"}})

    page.route("**/v1/**", guard)
    page.reload()
    key = page.get_by_label("API key")
    expect(key).to_be_focused()
    expect(page.locator("#key-trouble")).to_have_text("The server wants an API key.")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-trouble")).to_have_text("The server refuses this key.")
    key.fill("secret")
    page.keyboard.press("Enter")
    expect(page.locator("#model")).to_have_text("mossvl-tiny")
    page.keyboard.press("Escape")
    load_sample(page)
    assert ask(page, "When does the blue star appear?") == "2.0 seconds"
    page.reload()
    expect(page.locator("#model")).to_have_text("mossvl-tiny")
    assert "secret" not in page.evaluate("JSON.stringify(localStorage) + document.cookie")


# --- for everybody -----------------------------------------------------------------------------------------------


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
        *(".question p", ".about", ".answer .text", ".facts", ".time", ".chip", "#question", "#keys", "#send"),
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
    page.locator("#settings summary").tap()
    expect(page.get_by_label("API key")).to_be_visible()
    assert sideways(page) == 0


@pytest.mark.parametrize("settings", [{"reduced_motion": "reduce"}], ids=["reduced motion"])
def test_nothing_moves_where_people_do_not_want_it(page):
    load_sample(page)
    page.get_by_label("Your question").fill("Describe the clip.")
    page.keyboard.press("Enter")
    assert page.evaluate("document.getAnimations().length") == 0
    finished(page)
