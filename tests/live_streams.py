"""Live sessions of the golden checkpoint, and what one forward pass over a whole stream makes of it."""

import copy
import threading
import time

import numpy as np
import torch

from mossvl.live.events import Decision
from mossvl.model import packed_backend
from mossvl.model.xrope import text_layout

SIZES = [(64, 96), (64, 64), (96, 64), (128, 128)]
LIKED = {"<|silence|>": 12, "<|response|>": 150}
"""Tokens that the golden checkpoint draws often: a talkative copy of it draws state tokens in their place."""


def talkative(model, processor, factor=1.05):
    """A copy of the model that draws state tokens now and then; with a negative `factor`, never."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        weight = model.lm_head.weight
        for name, other in LIKED.items():
            weight[processor.tokenizer.convert_tokens_to_ids(name)] = weight[other] * factor
    return model


def picture(seed):
    """An image (height, width, 3) uint8 of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*SIZES[seed % len(SIZES)], 3), dtype=np.uint8)


def until(condition, seconds=20):
    for _ in range(seconds * 1000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it has not come to that")


def request_of(session):
    (job,) = [one for one in list(session.engine.loop.jobs) if one.director is session._director]
    until(lambda: job.requests)
    return job.requests[0]


class Watched:
    """A session, all that it has told so far, and the texts and pictures that it was given.

    Attributes:
        given: texts of the opening and of each segment, as the stream should have them.
    """

    def __init__(self, session, opening):
        self.session, self.events, self.given, self.pictures = session, [], [opening], []

    @property
    def decisions(self):
        return len(told(self, Decision))

    @property
    def raw(self):
        self.events += self.session.take()
        return "".join(one.raw for one in self.events)

    def decide(self, count):
        """Wait until so many slots are over in all."""
        until(lambda: self.decisions >= count)

    def rest(self):
        """Wait until all that was given is appended, and nothing is computed any more; return the request's context.

        The engine has told its readers all of it then, too.
        """
        request = request_of(self.session)
        until(lambda: len(request.context.prompts) >= len(self.given) and request.rests and not request.in_flight)
        after = threading.Event()
        self.session.engine.loop.events.put(after.set)  # Its step may not be over.
        assert after.wait(20)
        return request.context


def passed(model, processor, stream, pictures):
    """One forward pass over a stream → logits (tokens, vocabulary), positions and numbers of visible vision tokens."""
    merge, tokens = processor.image_processor.merge_size, torch.tensor([stream])
    is_image = tokens[0] == processor.image_token_id
    inputs = {}
    if pictures:
        images = processor.image_processor(pictures)
        inputs = {"pixel_values": images["pixel_values"], "grid_thw": images["grid_thw"]}
    grids = images["grid_thw"][:, 1:] // merge if pictures else torch.zeros(0, 2, dtype=torch.long)
    layout = text_layout(is_image, grids)
    ends = torch.cat((torch.zeros(1, dtype=torch.long), layout.frame_ends))
    with torch.inference_mode():
        logits = model(input_ids=tokens, **inputs).logits[0].float()
    return logits, layout.text.tolist(), ends[layout.visible_frames].tolist()


def check_pass(context, model, processor, pictures):
    """Check a context against one pass over its stream; return the tokens that were drawn after each prompt."""
    stream, length = context.tokens(0, context.length), context.length
    begins = [prompt.begin.row for prompt in context.prompts[1:]] + [length]
    drawn = [range(prompt.end.row, begin) for prompt, begin in zip(context.prompts, begins, strict=True)]
    logits, positions, visible = passed(model, processor, stream, pictures)
    assert context.positions(0, length).tolist() == positions
    assert context.visible(0, length).tolist() == visible
    told = [[stream[row] for row in rows] for rows in drawn]
    assert [[int(logits[row - 1].argmax()) for row in rows] for rows in drawn] == told
    return told


def check_stream(watched, model, processor):
    """Check a resting session: its stream is what it was given; return the tokens of each slot."""
    context = watched.rest()
    ids = [processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in watched.given]
    assert [prompt.tokens for prompt in context.prompts] == ids
    return check_pass(context, model, processor, watched.pictures)


def hide(monkeypatch, unseen):
    """Have plain passes hide the first unseen[row] vision tokens from each row."""

    class Masked(packed_backend.Visibility):
        def attend(self, q, k, v):
            place = torch.arange(len(k))
            mask = (place < self.visible[:, None]) & (place >= unseen[:, None])
            sees = mask.any(1)
            out = torch.zeros_like(q)
            out[sees] = packed_backend.attend(q[sees], k, v, mask[sees])
            return out

    monkeypatch.setattr(packed_backend, "Visibility", Masked)


def context_drawn(context):
    """The tokens that were drawn, in order."""
    return list(context.answer)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def begin(llm, **options):
    options = {"system_prompt": "", "tokens_per_second": None, "max_context": 512, "max_pixels": 1 << 14, **options}
    return Watched(llm.live("Go.", **options), "")


def told(watched, kind):
    watched.events += watched.session.take()
    return [one for one in watched.events if isinstance(one, kind)]


def blocked(llm):
    """Keep the engine's thread busy until the returned function is called."""
    free, busy = threading.Event(), threading.Event()
    engine = llm.engine() if callable(llm.engine) else llm.engine
    engine.loop.events.put(lambda: (busy.set(), free.wait(60)))
    assert busy.wait(60)
    return free.set
