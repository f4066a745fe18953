"""Questions, answers as they come, and times in them that lead to the moment."""

import json
import re

import pytest
from visiting import CLIP, STAR, ask, expect, expect_time, exported, finished, load_sample, slide

from mossvl.data.records import as_query, lines_of, parse_line
from mossvl.queries.query import Query
from mossvl.server.samples import FOLDER, SAMPLES


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


def test_a_length_leads_nowhere(page):
    load_sample(page)
    assert ask(page, "How long is the blue star there?") == "2.0 seconds"
    expect(page.locator(".time")).to_have_count(0)
    ask(page, "When does the blue star appear?")
    expect(page.locator(".time")).to_have_text(["2.0 seconds"])


@pytest.mark.parametrize("settings", [{"permissions": ["clipboard-read", "clipboard-write"]}], ids=["clipboard"])
def test_an_answer_is_copied(page):
    load_sample(page)
    answer = ask(page, "Describe the clip.")
    copy = page.get_by_role("button", name="Copy the answer")
    copy.click()
    expect(copy).to_have_text("Copied")
    expect(page.get_by_role("status").filter(has_text="Copied.")).to_have_count(1)
    assert page.evaluate("navigator.clipboard.readText()") == answer
    expect(copy).to_have_text("Copy")


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


def test_a_new_conversation_can_be_undone(page):
    load_sample(page)
    ask(page, "Describe the clip.")
    for leave in ("New conversation", SAMPLES[1]["name"]):
        page.get_by_role("button", name=leave).click()
        expect(page.locator("#turns > li")).to_have_count(0)
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(".answer .text")).to_contain_text("to the right")
        expect(page.locator(".card .name")).to_have_text([CLIP.name])
        expect(page.get_by_label("Your question")).to_be_focused()
    assert ask(page, "When does the blue star appear?") == "2.0 seconds"
    page.get_by_role("button", name="New conversation").click()
    ask(page, "When does the blue star vanish?")
    expect(page.get_by_role("button", name="Undo")).to_have_count(0)


def test_the_browser_asks_before_a_conversation_is_left(page):
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    load_sample(page)
    page.reload()
    load_sample(page)
    ask(page, "Describe the clip.")
    page.reload()
    assert asked == ["beforeunload"]


def test_what_was_asked_stays_as_it_was(page):
    load_sample(page)
    slide(page, "Frames", 1)
    expect(page.locator("#cost")).to_contain_text("13 frames")
    ask(page, "When does the blue star appear?")
    expect(page.get_by_role("slider", name="Frames")).to_be_disabled()
    expect(page.locator("#fixed")).to_be_visible()
    page.locator("#files").set_input_files(FOLDER / SAMPLES[1]["file"])
    expect(page.locator("#cost")).to_contain_text("7 frames")  # with the defaults
    slide(page, "Frames", 2)
    expect(page.locator("#cost")).to_contain_text("19 frames")
    ask(page, "Describe the clip.")
    videos = [part for message in exported(page)["messages"] for part in message["content"] if "video" in part]
    assert [(video["video"], video["video_fps"]) for video in videos] == [("star.mp4", 2), ("meeting.mp4", 3)]
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("slider", name="Frames")).to_be_enabled()


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
