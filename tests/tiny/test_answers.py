"""mossvl-tiny gives right answers: about files that it has never seen, and in every interface."""

import queue
import threading
from fractions import Fraction
from pathlib import Path

import av
import pytest
from media.clips import plain_decode

import mossvl
from mossvl.evaluation import ask
from mossvl.synthetic import Scene, Thing, write_picture
from mossvl.synthetic.world import Split
from mossvl.tiny.evaluate import most_frequent, write_conversations

CLIP = str(Path(__file__).parents[2] / "examples" / "clip.mp4")
PICTURE = str(Path(__file__).parents[2] / "examples" / "shapes.png")
SIGN = str(Path(__file__).parents[2] / "examples" / "sign.png")
QUERIES = {
    "When does the blue star appear?": "2.0 seconds",
    "How long is the blue star there?": "2.0 seconds",
    "Which way does the red circle move?": "right",
    "How many different things does the clip show?": "It shows two different things.",
    "Is there ever a green star in the clip?": "no",
}


@pytest.fixture(scope="module")
def tiny():
    with mossvl.MossVL(device="cpu") as llm:
        yield llm


def share(llm, conversations):
    scores = [score for _, score in ask(llm, conversations)]
    assert len(scores) == sum(len(one.answers) for one in conversations)
    return sum(scores) / len(scores)


def test_files_of_the_test_split_are_answered_and_black_ones_are_not(tiny, tmp_path):
    conversations = write_conversations(tmp_path / "shown", Split.TEST, 1)
    black = write_conversations(tmp_path / "black", Split.TEST, 1, blind=True)
    assert share(tiny, conversations) > 0.9
    assert share(tiny, black) < 0.5
    assert [one.answers for one in black] == [one.answers for one in conversations]


def test_the_most_frequent_answer_is_found(tmp_path):
    class Asked:
        def __init__(self, name, answers):
            self.name, self.answers = name, answers

    shares = most_frequent([Asked("a", ["yes", "no"]), Asked("a", ["yes"]), Asked("b", ["no"])])
    assert shares == {"a": pytest.approx(2 / 3), "b": 1.0}


def test_many_questions_together_are_answered_as_each_alone(tiny):
    queries = [{"prompt": question, "videos": [CLIP]} for question in QUERIES]
    together = [result.text for result in tiny.generate(queries)]
    assert together == list(QUERIES.values())
    assert together == [tiny.generate(query).text for query in queries]


def test_streamed_pieces_are_the_answer(tiny):
    query = {"prompt": "Describe the clip.", "videos": [CLIP]}
    pieces = list(tiny.stream(query))
    assert len(pieces) > 5
    assert "".join(pieces) == tiny.generate(query).text
    assert "At 2.0 seconds a blue star appears." in "".join(pieces)


def test_a_conversation_refers_to_what_was_said(tiny):
    chat = tiny.chat()
    assert chat.ask("Where is the green pentagon?", images=[PICTURE]).text == "At the top left."
    assert chat.ask("Is it plain, striped or dotted?").text == "plain"


def test_several_media_are_told_apart(tiny, tmp_path):
    other = tmp_path / "other.png"
    write_picture(Scene([Thing("circle", "red"), Thing("star", "blue", x=0.2, y=0.2)]), other, 192, 256)
    question = "Is there a green pentagon in the first or in the second picture?"
    for images, answer in (([PICTURE, other], "first"), ([other, PICTURE], "second")):
        assert tiny.generate({"prompt": question, "images": images}).text == answer


def test_more_frames_a_second_tell_the_time_more_closely(tiny):
    query = {"prompt": "When does the blue star vanish?", "videos": [CLIP], "media_kwargs": {"video_fps": 0.5}}
    coarse = tiny.generate(query)
    assert coarse.text == f"{next(time for time in coarse.media[0].timestamps if time >= 4):.1f} seconds"
    assert tiny.generate({**query, "media_kwargs": {"video_fps": 2.0}}).text == "4.0 seconds"


@pytest.fixture
def thinned(tmp_path):
    """The example clip, of which only every fifth frame is left after two seconds."""
    frames = plain_decode(Path(CLIP))
    kept = [*range(51), *range(55, len(frames), 5)]
    path = tmp_path / "thinned.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for number in kept:
            frame = av.VideoFrame.from_ndarray(frames[number], format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_times_are_right_where_frames_are_not_evenly_spaced(tiny, thinned):
    query = {"prompt": "When does the blue star appear?", "videos": [thinned]}
    assert tiny.generate(query).text == QUERIES[query["prompt"]]


def test_a_remembered_clip_is_seen_with_the_times_that_are_asked_for(tiny, thinned):
    queries = [
        {"prompt": "What happens?", "videos": [thinned], "media_kwargs": {"timestamps": timestamps}}
        for timestamps in ("actual", "published")
    ] + [
        {"messages": [{"role": "user", "content": [{"type": "video", "video": thinned, "timestamps": timestamps}]}]}
        for timestamps in ("actual", "published")
    ]
    told = [tiny.generate(query | {"generate_kwargs": {"max_new_tokens": 1}}).media[0].timestamps for query in queries]
    assert told[0] == told[2] == pytest.approx((0, 1, 2, 3, 4, 5, 6), abs=0.2)
    assert told[1] == told[3] != told[0]


def test_the_offline_methods_answer_rightly(tiny):
    model, processor = tiny.model, tiny.processor
    read = {"prompt": "What is written there?", "image": SIGN}
    assert model.offline_image_generate(processor, **read) == "MOSS"
    first, second, *_ = QUERIES
    assert model.offline_video_generate(processor, prompt=first, video=CLIP) == QUERIES[first]
    turn = model.offline_batch_generate(processor, [{"prompt": first, "videos": [CLIP]}])
    again = model.offline_batch_generate(processor, [{"prompt": second}], session_states=turn["session_states"])
    assert [turn["results"][0]["text"], again["results"][0]["text"]] == [QUERIES[first], QUERIES[second]]
    model.close_engine()


def test_the_queue_answers_rightly(tiny):
    asked, said = queue.Queue(), queue.Queue()
    thread = threading.Thread(target=tiny.model.offline_generate, args=(tiny.processor, asked, said), daemon=True)
    thread.start()
    asked.put({"prompt": "Which way does the red circle move?", "videos": [CLIP]})
    pieces = []
    while "<|round_end|>" not in pieces:
        pieces.append(said.get(timeout=60))
    asked.put({"stop_offline_generate": True})
    thread.join(60)
    assert not thread.is_alive()
    assert pieces == ["right", "<|round_end|>"]
    tiny.model.close_engine()


def test_transformers_generate_answers_rightly(tiny):
    messages = [
        {"role": "user", "content": [{"type": "video", "video": CLIP}, {"type": "text", "text": next(iter(QUERIES))}]}
    ]
    text = tiny.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tiny.processor(text=text, videos=[CLIP], return_tensors="pt")
    out = tiny.model.generate(**inputs, max_new_tokens=20, do_sample=False)
    answer = tiny.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == next(iter(QUERIES.values()))
