"""A live session watches and speaks with its adapter, beside sessions and queries with others."""

from contextlib import ExitStack

import pytest
from adapted_models import TEXT, Adapted
from live_streams import Watched, check_stream, picture, request_of, talkative, told, until

import mossvl
from mossvl.errors import OptionError
from mossvl.live.events import RolledOver
from mossvl.processing.stream import frame_text, opening_text


@pytest.fixture
def talkers(loaded, tmp_path):
    """Adapters of a model that draws state tokens."""
    talkers = Adapted(talkative(*loaded), loaded[1], tmp_path)
    talkers.add("one", std=0.1)
    talkers.add("merger", std=0.1, target_modules=f"{TEXT}|model.visual.merger.linear_fc1")
    return talkers


def test_sessions_have_the_tokens_of_one_pass_with_their_adapters(talkers, processor):
    with mossvl.MossVL(talkers.model, processor, memory=1 << 26, lora=talkers.folders) as llm, ExitStack() as stack:
        options = {"system_prompt": "Watch.", "tokens_per_second": None, "tokens_per_slot": 4, "window_seconds": None}
        sessions = {name: llm.live("", lora=name, **options) for name in ("one", None, "merger")}
        watched = {
            name: Watched(stack.enter_context(one), opening_text("Watch.", "")) for name, one in sessions.items()
        }
        for number in range(4):
            for one in watched.values():
                image = picture(number)
                one.pictures.append(image)
                one.given.append(frame_text(float(number)))
                one.session.push(image, float(number))
                one.decide(number + 1)
        slots = {}
        for name, one in watched.items():
            one.decide(5)
            model = talkers.model if name is None else talkers.models[name].base_model.model
            slots[name] = check_stream(one, model, processor)
        assert slots["one"] != slots[None] != slots["merger"]


def test_a_session_of_an_unknown_adapter_does_not_begin(talkers, processor):
    with mossvl.MossVL(talkers.model, processor, memory=1 << 24, lora=talkers.folders) as llm:
        with pytest.raises(OptionError, match="unknown adapter"):
            llm.live("", lora="two")
        with pytest.raises(OptionError, match="lora=3 must be a text"):
            llm.live("", lora=3)
        assert not llm.engine.active


def test_a_renewed_context_keeps_the_adapter(loaded, tmp_path):
    speakers = Adapted(talkative(*loaded, factor=-1), loaded[1], tmp_path)
    speakers.add("one", std=0.01)
    options = {"system_prompt": "", "tokens_per_second": None, "max_context": 256, "ignore_eos": True}
    with mossvl.MossVL(speakers.model, loaded[1], memory=1 << 24, lora=speakers.folders) as llm:
        with llm.live("Go.", lora="one", **options) as session:
            watched, first = Watched(session, ""), request_of(session)
            until(lambda: len(told(watched, RolledOver)) >= 2)
            renewed = request_of(session)
        assert renewed is not first and renewed.adapter == first.adapter == 0
