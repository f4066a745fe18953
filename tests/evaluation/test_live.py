"""Live sessions are driven by a strict handshake, and scored on records of which it is known what is due."""

import copy
import json

import pytest
import torch
from golden_cases import MEDIA
from live_streams import picture
from PIL import Image

import mossvl
from mossvl.data.live import read_example
from mossvl.errors import GenerationTimeout, MossVLError
from mossvl.evaluation.live import STRICT, Script, Watcher, evaluate, script_of, synthetic_scripts
from mossvl.evaluation.streaming import Decision, Due, Reply, Score, drive, replies
from mossvl.live.options import LiveOptions
from mossvl.media.video import open_clip
from mossvl.processing.stream import StateTokens
from mossvl.synthetic.live_records import live_samples
from mossvl.synthetic.streaming import STREAMS
from mossvl.synthetic.world import Split

S, R, F = "<|silence|>", "<|response|>", "<|video|>"
FRAMES = [(float(number), Image.fromarray(picture(number))) for number in range(5)]
PROMPTS = [(0.0, "Watch."), (0.0, "And speak."), (2.25, "Now?"), (2.5, "Or now?"), (2.75, "And then?")]


@pytest.fixture(scope="module")
def llm(loaded):
    """A model that draws ASCII characters and no special tokens: it never falls silent by itself."""
    model, processor = copy.deepcopy(loaded[0]), loaded[1]
    tokens = range(model.lm_head.weight.shape[0])
    plain = [processor.tokenizer.decode([token], skip_special_tokens=True).isascii() for token in tokens]
    special = [token in processor.tokenizer.added_tokens_decoder for token in tokens]
    with torch.no_grad():
        model.lm_head.weight[[not one or other for one, other in zip(plain, special, strict=True)]] = 0
    with mossvl.MossVL(model, processor, memory=1 << 26) as llm:
        yield llm


@pytest.fixture
def silent(loaded):
    model, processor = copy.deepcopy(loaded[0]), loaded[1]
    with torch.no_grad():  # Whatever the sign of its logit, another state token is the likeliest but for it.
        weight, states = model.lm_head.weight, StateTokens.of(processor.tokenizer)
        row = weight[0].clone()
        weight.zero_()
        weight[states.silence], weight[states.response] = row, -row
    with mossvl.MossVL(model, processor, memory=1 << 26) as llm:
        yield llm


def test_each_decision_is_what_the_session_says_between_two_frames(llm):
    options = LiveOptions(tokens_per_second=None, tokens_per_slot=4, when_behind="block")
    steps = list(drive(Watcher(llm, "Watch.", options), FRAMES, PROMPTS))
    assert [step.time for step in steps] == [0, 1, 2, 3, 4]
    assert all(step.decision.text and step.decision.goes_on for step in steps)
    session = llm.live("Watch.", system_prompt="Watch.", options=options)
    with session:
        told = []

        def heard(count):
            while sum(type(one).__name__ == "Decision" for one in told) < count:
                assert session.wait(20)
                told.extend(session.take())
            return "".join(one.text for one in told if type(one).__name__ == "Text")

        heard(1)
        session.say("And speak.", FRAMES[0][1], 0.0)
        said = [heard(2)]
        for number in range(1, 5):
            time, image = FRAMES[number]
            if number == 3:
                session.say("Now?")
                heard(5)
                session.say("Or now?")
                heard(6)
            session.say("And then?", image, time) if number == 3 else session.push(image, time)
            said.append(heard(number + 2 + 2 * (number > 2)))
    assert said == ["".join(step.decision.text for step in steps[: number + 1]) for number in range(5)]


def test_decisions_do_not_depend_on_what_else_is_watched(llm):
    scripts = [Script(str(number), lambda: FRAMES, PROMPTS[:number], [Due(0, 4)]) for number in range(4)]
    alone = evaluate(llm, scripts, sessions=1)
    assert evaluate(llm, scripts, sessions=4) == alone and list(alone) == ["0", "1", "2", "3"]


def test_state_tokens_are_no_text_and_silence_is_no_reply(silent):
    steps = list(drive(Watcher(silent, "Watch."), FRAMES, PROMPTS))
    assert {step.decision.text for step in steps} == {""} and replies(steps, PROMPTS) == []
    (found,) = evaluate(silent, [Script("quiet", lambda: FRAMES, PROMPTS, [Due(1, 2, "A car.")])]).values()
    assert found == Score(None, 0.0, None, None)


def test_a_session_that_does_not_decide_in_time_is_told_of_and_closed(llm):
    watcher = Watcher(llm, "Watch.")
    with pytest.raises(GenerationTimeout, match="has not decided within 0 seconds"):
        list(drive(watcher, FRAMES, [(0, "Watch.")], timeout=0.0))
    assert not watcher._session.active


def test_a_session_that_has_ended_is_told_of(llm):
    watcher = Watcher(llm, "Watch.")
    steps = drive(watcher, FRAMES, [])
    next(steps)
    watcher._session.close()
    with pytest.raises(MossVLError, match="ended"):
        next(steps)


# --- scripts -----------------------------------------------------------------------------------------------------


def record(*answers, prompts):
    turns = [
        turn for pair in zip(prompts, answers, strict=True) for turn in zip(("user", "assistant"), pair, strict=True)
    ]
    frames = sum(answer.count(F) for answer in answers)
    return {
        "messages": [
            {"role": "system", "content": "Watch."},
            *({"role": role, "content": text} for role, text in turns),
        ],
        "videos": [{"video_path": "clip_10fps_6s.mp4", "segments": [[time + 0.5] for time in range(frames)]}],
    }


def test_what_is_due_in_a_record_is_when_its_replies_begin():
    given = record(
        f"{S}{F}{S}{F}{R}A{F}{R} car.{S}{F}{R}A b",
        f"{S}{F}{R}Yes.{S}",
        f"{R}Me.{S}{F}{S}",
        prompts=["", "Now?", "Who?"],
    )
    script = script_of(read_example(json.loads(json.dumps(given)), MEDIA), "street", grace=2.0)
    assert script.prompts == [(4.5, "Now?"), (5.5, "Who?")]
    assert script.due == [Due(1.5, 3.5, "A car."), Due(3.5, 5.5, "A b"), Due(4.5, 6.5, "Yes."), Due(5.5, 7.5, "Me.")]
    assert (script.name, script.system_prompt) == ("street", "Watch.")
    frames = list(script.frames())
    with open_clip(MEDIA / "clip_10fps_6s.mp4") as clip:
        expected = [Image.fromarray(one) for one in clip.read([5, 15, 25, 35, 45, 55])]
    assert [time for time, _ in frames] == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert [image.tobytes() for _, image in frames] == [image.tobytes() for image in expected]


class Perfect:
    """A session that says at each frame what is due then."""

    def __init__(self, due):
        self.due = {one.begin: one.text for one in due}

    def push_prompt(self, text): ...

    def push_frame(self, image, timestamp):
        self.said = self.due.get(timestamp, "")

    def decision(self, timeout):
        return Decision(self.said)

    def close(self): ...


def test_who_says_what_is_due_in_streams_of_the_procedural_world_has_full_scores(processor):
    scripts = list(synthetic_scripts(live_samples(Split.TEST, 4, 2 * len(STREAMS)), processor, size=32))
    assert {script.name for script in scripts} == set(STREAMS)
    for script in scripts:
        said = replies(drive(Perfect(script.due), script.frames(), script.prompts), script.prompts)
        assert said == [Reply(due.begin, due.begin, due.text) for due in script.due]
    assert any(script.due for script in scripts) and STRICT.tokens_per_second is None


def test_sessions_are_evaluated_on_streams_of_the_procedural_world(llm, processor):
    scripts = list(synthetic_scripts(live_samples(Split.TEST, 4, 2, ["alert", "silent"]), processor, size=32))
    found = evaluate(llm, scripts, sessions=2)
    assert list(found) == ["alert", "silent"]
    assert found["silent"].recall is None and found["alert"].precision is not None
