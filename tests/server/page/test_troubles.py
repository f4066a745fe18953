"""What goes wrong is told in its place."""

import json
import re

from visiting import BROKEN, CLIP, PICTURE, ask, expect, exported, finished, limit, load_sample


def test_a_broken_file_is_told_beside_it(visit):
    visit.failing |= {400, 422}
    page = visit.page
    broken = BROKEN | {"name": "<img src=x onerror=alert(1)>.mp4", "mimeType": "video/mp4"}
    page.locator("#files").set_input_files(broken)
    expect(page.locator(".card .name")).to_have_text(broken["name"])  # a name is no markup
    expect(page.locator(".card .problem")).to_contain_text("It is not sent.")
    expect(page.locator("#stage")).to_be_hidden()
    question = page.get_by_label("Your question")
    question.fill("Describe the clip.")
    for _ in range(2):
        page.keyboard.press("Enter")
        expect(page.locator("#question-trouble .problem")).to_contain_text("cannot be used")
        expect(question).to_have_value("Describe the clip.")
    expect(page.locator("#turns > li")).to_have_count(0)
    page.get_by_role("button", name="Remove").click()
    expect(page.locator("#question-trouble .problem")).to_have_count(0)
    load_sample(page)
    assert ask(page, "When does the blue star appear?") == "2.0 seconds"


def test_a_broken_file_does_not_stop_questions_about_others(visit):
    visit.failing |= {400, 422}
    page = visit.page
    page.locator("#files").set_input_files(CLIP)
    page.locator("#files").set_input_files(BROKEN)
    assert ask(page, "When does the blue star appear?") == "2.0 seconds"
    expect(page.locator("#player")).to_be_visible()
    expect(page.locator(".about")).to_have_text([CLIP.name])
    parts = exported(page)["messages"][0]["content"]
    assert [part.get("video") for part in parts] == [CLIP.name, None]
    page.get_by_role("button", name="notes.txt", exact=True).click()
    expect(page.locator("#stage")).to_be_hidden()
    page.get_by_role("button", name="Remove notes.txt").click()
    expect(page.locator("#player")).to_be_visible()


def test_a_question_comes_back_if_its_only_file_turns_out_to_be_broken(visit):
    visit.failing |= {400}
    page = visit.page
    held = []
    page.route("**/v1/files", lambda route: held.append(route))
    page.locator("#files").set_input_files(BROKEN)
    page.get_by_label("Your question").fill("What is it?")
    page.keyboard.press("Enter")
    expect(page.locator(".waiting")).to_have_count(1)
    held[0].fulfill(status=400, json={"error": {"message": "notes.txt is no video"}})
    expect(page.get_by_label("Your question")).to_have_value("What is it?")
    expect(page.locator("#question-trouble")).to_contain_text("Not sent: notes.txt cannot be used.")
    expect(page.locator("#turns > li")).to_have_count(0)


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


def test_a_question_that_failed_is_removed_or_asked_last(visit):
    visit.failing |= {500}
    page = visit.page
    load_sample(page)
    fail = {"status": 500, "json": {"error": {"message": "it has failed"}}}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(**fail))
    ask(page, "Describe the clip.")
    ask(page, "Which way does the red circle move?")
    page.unroute("**/v1/chat/completions")
    ask(page, "When does the blue star appear?")
    page.locator(".answer").first.get_by_role("button", name="Try again").click()
    expect(page.locator(".question p").last).to_have_text("Describe the clip.")
    finished(page)
    page.locator(".answer").get_by_role("button", name="Remove").click()
    expect(page.get_by_label("Your question")).to_be_focused()
    expect(page.locator(".question p")).to_have_text(["When does the blue star appear?", "Describe the clip."])
    assert len(exported(page)["messages"]) == 4


def test_while_the_model_is_loaded_the_page_waits(visit):
    visit.failing |= {503}
    page = visit.page
    loading = {"status": 503, "json": {"error": {"message": "no", "code": "loading"}}}
    loaded = []

    def answer(route):
        if loaded:
            route.continue_()
        else:
            route.fulfill(**loading)

    for path in ("**/v1/**", "**/ready"):
        page.route(path, answer)
    page.reload()
    expect(page.locator("#notice")).to_have_text("The model is being loaded…")
    page.locator("#files").set_input_files(CLIP)
    page.get_by_label("Your question").fill("When does the blue star appear?")
    page.keyboard.press("Enter")
    expect(page.locator(".waiting")).to_have_count(1)
    loaded.append(True)  # To unroute now would lose a request that is on its way; the page asks again and again.
    expect(page.locator(".answer .text")).to_have_text("2.0 seconds")
    expect(page.locator("#model")).to_have_text("mossvl-tiny")
    expect(page.locator("#notice")).to_be_empty()


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
