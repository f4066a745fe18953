"""What lmms-eval passes to the model is checked before anything is loaded."""

import math
from dataclasses import fields

import pytest

from mossvl.errors import OptionError
from mossvl.evaluation.lmms_eval.arguments import KNOWN, Arguments
from mossvl.options import EngineConfig, MediaOptions
from mossvl.processing.system_prompt import SYSTEM_PROMPT_KEYS


def test_without_arguments_everything_is_left_to_the_checkpoint():
    arguments = Arguments.of({"batch_size": "1", "max_batch_size": None, "device": None})
    assert arguments.engine == EngineConfig() and arguments.checkpoint is None
    assert arguments.media == arguments.system == arguments.sampling == {}
    assert arguments.clip_times == "segment" and not arguments.strict


def test_media_options_have_the_names_that_models_of_lmms_eval_have():
    given = {
        "fps": 1,
        "max_frames": 768,
        "video_max_pixels": 201326592,
        "min_pixels": 4096.0,
        "timestamps": "published",
    }
    media = Arguments.of(given).media
    assert MediaOptions.from_dict(media) == MediaOptions(
        video_fps=1, max_frames=768, video_max_pixels=201326592, min_pixels=4096, timestamps="published"
    )
    assert Arguments.of({"nframes": 32}).media == {"min_frames": 32, "max_frames": 32}


def test_every_setting_of_engine_media_and_system_prompt_is_an_argument():
    names = {one.name for one in (*fields(EngineConfig), *fields(MediaOptions))} | set(SYSTEM_PROMPT_KEYS)
    assert names - {"video_fps"} <= KNOWN


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"video_fps": 1}, "unknown model argument 'video_fps'; did you mean 'fps'"),
        ({"max_frame": 3}, "did you mean 'max_frames'"),
        ({"chekpoint": "x"}, "did you mean 'checkpoint'"),
        ({"fps": 0}, "more than 0"),
        ({"fps": "fast"}, "must be a number"),
        ({"max_batch": 0}, "at least 1"),
        ({"nframes": 8, "fps": 1}, "leave fps out"),
        ({"nframes": 8, "max_frames": 9}, "leave max_frames out"),
        ({"nframes": 0}, "nframes=0"),
        ({"checkpoint": "a", "pretrained": "b"}, "one argument"),
        ({"clip_times": "absolute"}, "'segment' or 'clip'"),
        ({"strict": "yes"}, "true or false"),
        ({"batch_size": "many"}, "batch_size='many'"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"media_timeout": 0}, "timeout"),
        ({"thinking_mode": "deep_thinking"}, "needs a system_prompt"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(given, words):
    with pytest.raises(OptionError, match=words):
        Arguments.of(given)


@pytest.mark.parametrize(
    ("given", "most"), [(1, 256), ("1", 256), ("auto", 256), ("auto:4", 256), ("64", 64), (64, 64)]
)
def test_a_batch_size_above_one_bounds_the_requests_computed_together(given, most):
    assert Arguments.of({"batch_size": given}).engine.max_batch == most
    assert Arguments.of({"batch_size": given, "max_batch": 7}).engine.max_batch == 7


def test_a_rank_has_a_device_of_its_own_unless_one_is_named():
    assert Arguments.of({}, "cuda:3").engine.device == "cuda:3"
    assert Arguments.of({"device": "cuda"}, "cuda:3").engine.device == "cuda:3"
    assert Arguments.of({"device": "cuda:1"}, "cuda:3").engine.device == "cuda:1"
    assert Arguments.of({"device": "cuda"}).engine.device == "cuda"


def test_either_name_names_the_checkpoint():
    assert Arguments.of({"pretrained": "a"}).checkpoint == Arguments.of({"checkpoint": "a"}).checkpoint == "a"


def test_media_may_take_as_long_as_is_said():
    assert Arguments.of({"media_timeout": math.inf}).limits.timeout == math.inf
    assert Arguments.of({"media_timeout": 3}).limits.timeout == 3
