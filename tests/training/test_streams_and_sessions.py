"""What is trained is what runs: a live record of what a session did has the session's tokens, positions and pixels."""

import copy

import pytest
import torch
from golden_cases import MEDIA
from live_streams import Watched

import mossvl
from mossvl.data.live import read_example
from mossvl.media.video import open_clip
from mossvl.options import MediaOptions
from mossvl.processing.stream import REALTIME, StateTokens
from mossvl.training.batches import pack
from mossvl.training.streams import encode_stream

TIMES = [0.0, 0.96, 2.04, 3.5, 4.25, 5.0]
"""Frames; before the fourth, there is a second prompt."""
PROMPTS = "Tell me <|silence|>when é appears.", "And n<|im_end|>ow?"


@pytest.fixture(scope="module")
def deciding(loaded):
    """A model that draws state tokens alone: one or the other, by the sign of a logit."""
    model, processor = copy.deepcopy(loaded[0]), loaded[1]
    states = StateTokens.of(processor.tokenizer)
    with torch.no_grad():
        weight = model.lm_head.weight
        row = weight[5].clone()
        weight.zero_()
        weight[states.silence], weight[states.response] = row, -row
    return model


@pytest.mark.parametrize("system", [None, "", "Say <|silence|> or<|im_start|> speak."])
def test_a_session_and_its_record_are_one_stream(system, deciding, processor):
    with open_clip(MEDIA / "clip_10fps_6s.mp4") as clip:
        frames = list(clip.read([clip.index_at(time) for time in TIMES]))
    with mossvl.MossVL(deciding, processor, memory=1 << 24) as llm:
        options = {"tokens_per_second": None, "tokens_per_slot": 1, "window_seconds": None}
        watched = Watched(llm.live(PROMPTS[0], system_prompt=system, **options), "")
        watched.decide(1)
        for number, (time, frame) in enumerate(zip(TIMES, frames, strict=True)):
            watched.session.say(PROMPTS[1], frame, time) if number == 3 else watched.session.push(frame, time)
            watched.given.append("")
            watched.decide(number + 2)
        context = watched.rest()
        ids = context.tokens(0, context.length)
        drawn = [ids[prompt.end.row] for prompt in context.prompts]
        positions = context.positions(0, context.length).tolist()
        visible = context.visible(0, context.length).tolist()
        patches = torch.cat([one.patches for one in watched.session._director.kept.pictures])
    slots = [processor.tokenizer.decode([token]) for token in drawn]
    assert set(slots) == {"<|silence|>", "<|response|>"}
    turns = [
        *([] if system is None else [("system", system)]),
        ("user", PROMPTS[0]), ("assistant", "<|video|>".join(slots[:4])),
        ("user", PROMPTS[1]), ("assistant", "<|video|>".join(["<|silence|>", *slots[4:]])),
    ]  # fmt: skip
    record = {
        "messages": [{"role": role, "content": text} for role, text in turns],
        "videos": [{"video_path": "clip_10fps_6s.mp4", "segments": [[time] for time in TIMES]}],
    }
    stream = read_example(record, MEDIA)
    assert stream.system_prompt == (REALTIME if system is None else system)
    example = encode_stream(processor, stream, MediaOptions())
    assert processor.tokenizer.decode(example.input_ids[len(ids) :]) == "<|im_end|>\n"
    assert example.input_ids[: len(ids)].tolist() == ids
    assert torch.equal(example.pixels, patches)
    packed = pack([example], processor.image_token_id, processor.image_processor.merge_size)["packed"]
    assert packed.positions[0, : len(ids)].tolist() == positions
    assert packed.visible[: len(ids)].tolist() == visible
