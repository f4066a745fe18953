"""Which known name is told to those who have given an unknown one."""

from dataclasses import fields

import pytest

from mossvl.errors import OptionError
from mossvl.names import nearest
from mossvl.offline.query import SessionQuery
from mossvl.options import GenerationOptions, MediaOptions
from mossvl.options.checks import check_names
from mossvl.options.engine import EngineConfig

GENERATION = [option.name for option in fields(GenerationOptions)]
MEDIA = [option.name for option in fields(MediaOptions)]
ENGINE = [option.name for option in fields(EngineConfig)]
KEYS = SessionQuery.keys()
REQUEST = ["messages", "model", "stream", "stream_options", "n", "max_completion_tokens", "max_tokens", "stop"]


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("temprature", GENERATION, "temperature"),
        ("max_tokens", GENERATION, "max_new_tokens"),
        ("max_new_token", GENERATION, "max_new_tokens"),
        ("maxNewTokens", GENERATION, "max_new_tokens"),
        ("topk", GENERATION, "top_k"),
        ("top-p", GENERATION, "top_p"),
        ("Seed", GENERATION, "seed"),
        ("stop_strings", GENERATION, "stop"),
        ("reptition_penalty", GENERATION, "repetition_penalty"),
        ("fps", MEDIA, "video_fps"),
        ("video_fsp", MEDIA, "video_fps"),
        ("video_max_frames", MEDIA, "max_frames"),
        ("min_pixel", MEDIA, "min_pixels"),
        ("promt", KEYS, "prompt"),
        ("image", KEYS, "images"),
        ("system", KEYS, "system_prompt"),
        ("generation_kwargs", KEYS, "generate_kwargs"),
        ("memroy", ENGINE, "memory"),
        ("hots", ["host", "port"], "host"),
        ("video_fps", ["fps", "min_frames"], "fps"),
        ("message", REQUEST, "messages"),
        ("max_new_tokens", REQUEST, "max_tokens"),
        ("stop_sequences", REQUEST, "stop"),
        ("model_name", REQUEST, "model"),
    ],
)
def test_a_slip_is_told_what_was_meant(name, known, meant):
    assert nearest(name, known) == meant
    assert nearest(name, reversed([*known])) == meant


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("mm_processor_kwargs", REQUEST),
        ("chat_template_kwargs", REQUEST),
        ("images", REQUEST),
        ("prompt", [*REQUEST, "prompt_cache_key"]),
        ("best_of", REQUEST),
        ("least_tokens", REQUEST),
        ("least_tokens", GENERATION),
        ("max_length", GENERATION),
        ("top_n", GENERATION),
        ("penalty", GENERATION),
        ("frames", MEDIA),
        ("longest_edge", MEDIA),
        ("min_frames", ["max_frames", "max_pixels"]),
        ("speculation", ENGINE),
        ("tools", ["role", "content", "name"]),
        ("n", REQUEST[:3]),
        ("", GENERATION),
        ("_", GENERATION),
        ("日本", GENERATION),
        ("max_" * 100_000, GENERATION),
        ("x" * 100_000, GENERATION),
        ("temperature", []),
    ],
)
def test_what_is_far_from_all_names_or_as_near_to_several_is_told_none(name, known):
    assert nearest(name, known) is None


def test_a_known_name_is_not_told_to_be_another():
    for known in (GENERATION, MEDIA, ENGINE, [*KEYS]):
        for name in known:
            assert nearest(name, known) == name


def test_an_unknown_option_is_refused_with_the_near_name_or_with_all():
    with pytest.raises(OptionError, match=r"^unknown color 'bleu'; did you mean 'blue'\?$"):
        check_names(["red", "bleu"], ["red", "blue"], "color")
    with pytest.raises(OptionError, match=r"^unknown color 'green'; known: blue, red$"):
        check_names(["green"], ["red", "blue"], "color")
