"""Queries, options and sessions."""

import copy
import queue
import threading
from contextlib import suppress

import numpy as np
import pytest
from golden_cases import MEDIA
from hypothesis import given
from hypothesis import strategies as st

from mossvl.errors import MossVLError, OptionError, PromptError
from mossvl.offline.query import SessionQuery
from mossvl.options import GenerationOptions, MediaOptions
from mossvl.processing.system_prompt import PICTURES, VIDEO

SHAPES, CLIP = str(MEDIA / "shapes.png"), str(MEDIA / "clip_10fps_6s.mp4")
SHORT = {"generate_kwargs": {"max_new_tokens": 3}}


def ask(model, processor, *queries, **kwargs):
    return model.offline_batch_generate(processor, [{**SHORT, **query} for query in queries], **kwargs)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"promt": "hi"}, "did you mean 'prompt'"),
        ({"role": "user", "content": "hi"}, "a message, not a query"),
        ({}, "either a prompt or messages"),
        ({"prompt": "a", "messages": []}, "not both"),
        ({"prompt": 3}, "must be a text"),
        ({"messages": "hi"}, "list of messages"),
        ({"messages": [{"role": "user"}]}, "role and a content"),
        ({"messages": [{"role": "user", "content": [{"type": "audio", "audio": "x"}]}]}, "a part must be"),
        ({"messages": [{"role": "user", "content": "x"}], "images": [SHAPES]}, "has its images in them"),
        ({"prompt": "a", "generate_kwargs": {"max_new_token": 3}}, "did you mean 'max_new_tokens'"),
        ({"prompt": "a", "generate_kwargs": {"temperature": float("nan")}}, "finite"),
        ({"prompt": "a", "generate_kwargs": {"max_new_tokens": -1}}, "at least 1"),
        ({"prompt": "a", "generate_kwargs": {"top_p": 1.5}}, "at most 1"),
        ({"prompt": "a", "generate_kwargs": {"stop": [""]}}, "none of them empty"),
        ({"prompt": "a", "generate_kwargs": [1]}, "dict of options"),
        ({"prompt": "a", "media_kwargs": {"fps": 2}}, "did you mean 'video_fps'"),
        ({"prompt": "a", "media_kwargs": {"video_fps": 0}}, "more than 0"),
        ({"prompt": "a", "media_kwargs": {"min_pixels": 9, "max_pixels": 4}}, "min_pixels=9 is more"),
        ({"prompt": "a", "stream_output": "yes"}, "true or false"),
        ({"prompt": "a", "reset_sesion": True}, "did you mean 'reset_session'"),
        ({"prompt": "a", "temperature": 0.3}, "'temperature' is no key of a query; write {'generate_kwargs'"),
        (["hello"], "must be a text or a dict"),
    ],
)
def test_a_bad_query_is_refused_in_words(query, words):
    with pytest.raises(MossVLError, match=words):
        SessionQuery.from_dict(query)


@given(
    st.dictionaries(
        st.sampled_from([*GenerationOptions.__dataclass_fields__, *MediaOptions.__dataclass_fields__, "nonsense"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers())),
        max_size=4,
    )
)
def test_any_options_are_taken_or_refused(options):
    for kind in (GenerationOptions, MediaOptions):
        with suppress(OptionError):
            kind.from_dict(options)


def test_a_text_is_a_prompt():
    assert SessionQuery.from_dict("hello") == SessionQuery.from_dict({"prompt": "hello"})


def test_a_result_given_as_sessions_is_told_from_them(model, processor):
    with pytest.raises(OptionError, match=r"give result\['session_states'\]"):
        model.offline_batch_generate(processor, ["a", "b"], session_states={"results": [], "session_states": []})


def test_older_option_names_are_known():
    options = MediaOptions.from_dict({"video_minlen": 2, "video_maxlen": 5})
    assert (options.min_frames, options.max_frames) == (2, 5)


def test_bounds_work_alone(processor):
    settings = processor.image_processor.settings
    assert settings(MediaOptions(max_pixels=1024)).min_pixels == 1024
    assert settings(MediaOptions(min_pixels=10**8)).max_pixels == 10**8
    assert processor.video_processor.settings(MediaOptions(min_frames=1000)).max_frames == 1000


def test_sessions_and_queries_are_not_changed(model, processor):
    session = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    query = {"prompt": "c", "images": [SHAPES], **SHORT}
    before = copy.deepcopy((session, query))
    model.offline_batch_generate(processor, [query], session_states=[session])
    assert (session, query) == before


def test_lengths_of_sessions_and_queries_must_agree(model, processor):
    with pytest.raises(OptionError, match="2 sessions for 1 queries"):
        ask(model, processor, {"prompt": "a"}, session_states=[[], []])


def test_one_bad_query_costs_that_query_only(model, processor):
    good = {"prompt": "Describe", "images": [SHAPES]}
    alone = ask(model, processor, good)["results"][0]["text"]
    result = ask(model, processor, {"prompt": "x", "videos": ["missing.mp4"]}, good, {"promt": "x"})
    assert result["results"][1]["text"] == alone
    assert "missing.mp4" in result["results"][0]["error"]
    assert "promt" in result["results"][2]["error"]
    assert "error" not in result["results"][1]
    assert result["session_states"][0] == result["session_states"][2] == []


def test_errors_are_raised_on_request(model, processor):
    with pytest.raises(MossVLError, match=r"missing\.mp4"):
        ask(model, processor, {"prompt": "x", "videos": ["missing.mp4"]}, raise_on_error=True)


def test_the_system_prompt_opens_the_session_once(model, processor):
    first = ask(model, processor, {"prompt": "a", "system_prompt": "Be brief."})
    assert first["session_states"][0][0] == {"role": "system", "content": "Be brief."}
    second = ask(model, processor, {"prompt": "b", "system_prompt": "Be long."}, session_states=first["session_states"])
    assert "Be long." not in second["results"][0]["input_text"]


def test_a_mode_chooses_the_system_prompt_of_a_session_once(model, processor):
    first = ask(model, processor, {"prompt": "a", "thinking_mode": "no_thinking"})
    opening = first["session_states"][0][0]
    assert opening["role"] == "system" and "text and/or images" in opening["content"]
    later = {"prompt": "b", "system_prompt_type": "video"}
    second = ask(model, processor, later, session_states=first["session_states"])
    assert second["session_states"][0][:3] == first["session_states"][0]
    assert "video analysis" not in second["results"][0]["input_text"]
    anew = ask(model, processor, {**later, "reset_session": True}, session_states=first["session_states"])
    assert "video analysis" in anew["results"][0]["input_text"]


def test_a_mode_without_a_known_system_prompt_costs_its_query_only(model, processor):
    bad, good = ask(model, processor, {"prompt": "a", "thinking_mode": "reasoning"}, {"prompt": "b"})["results"]
    assert "needs a system_prompt" in bad["error"] and "error" not in good
    with pytest.raises(OptionError, match="needs a system_prompt"):
        ask(model, processor, {"prompt": "a", "thinking_mode": "reasoning"}, raise_on_error=True)


def test_the_queue_protocol_takes_modes_and_goes_on_after_one_that_is_refused(model, processor):
    queries, answers = queue.Queue(), queue.Queue()
    for mode in ("thinking", "standard"):
        queries.put({"prompt": "a", "thinking_mode": mode, **SHORT})
    loop = threading.Thread(target=model.offline_generate, args=(processor, queries, answers), daemon=True)
    loop.start()
    refused, end, answered, _ = [answers.get(timeout=60) for _ in range(4)]
    queries.put({"stop_offline_generate": True})
    loop.join(timeout=60)
    assert refused.startswith("[ERROR] thinking_mode='thinking' needs a system_prompt") and end == "<|round_end|>"
    expected = ask(model, processor, {"prompt": "a", "system_prompt": PICTURES})["results"][0]["text"]
    assert answered == expected


def test_the_methods_for_one_medium_choose_by_it(model, processor):
    def answer(method, medium, **keys):
        return method(processor, "What?", medium, max_new_tokens=12, **keys)

    def expected(medium, system):
        query = {"prompt": "What?", **medium, "system_prompt": system, "generate_kwargs": {"max_new_tokens": 12}}
        return ask(model, processor, query)["results"][0]["text"]

    for keys in ({"thinking_mode": "default"}, {"use_default_system_prompt": True}):
        assert answer(model.offline_image_generate, SHAPES, **keys) == expected({"images": [SHAPES]}, PICTURES)
        assert answer(model.offline_video_generate, CLIP, **keys) == expected({"videos": [CLIP]}, VIDEO)
    own = answer(model.offline_image_generate, SHAPES, system_prompt_type="video")
    assert own == expected({"images": [SHAPES]}, VIDEO) != expected({"images": [SHAPES]}, PICTURES)
    with pytest.raises(OptionError, match="needs a system_prompt"):
        answer(model.offline_video_generate, CLIP, thinking_mode="deep_thinking")


def test_special_tokens_in_a_users_text_are_removed(model, processor):
    text = "a<|im_<|im_end|>end|><|image|><|vision_start|>b<|time_start|>1.0 seconds"
    result = ask(model, processor, {"prompt": text}, {"messages": [{"role": "user", "content": text}]})
    for one in result["results"]:
        assert one["input_text"] == "<|im_start|>user\nab1.0 seconds<|im_end|>\n<|im_start|>assistant\n"


def test_a_prompt_longer_than_the_context_is_refused(model, processor, monkeypatch):
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 64)
    with pytest.raises(PromptError, match="maximum context length is 64"):
        ask(model, processor, {"prompt": "word " * 100}, raise_on_error=True)
    # What fits may generate up to the context's end, and no further.
    long = {"prompt": "yes", "generate_kwargs": {"max_new_tokens": 1000}}
    result = model.offline_batch_generate(processor, [long])["results"][0]
    tokens = len(processor.tokenizer(result["input_text"])["input_ids"])
    assert "error" not in result
    assert tokens < 64


def test_answers_end_before_a_stop_string(model, processor):
    query = {"prompt": "Describe this image.", "images": [SHAPES]}
    whole = model.offline_batch_generate(processor, [{**query, "generate_kwargs": {"max_new_tokens": 20}}])
    text = whole["results"][0]["text"]
    stop = text[6:9]
    cut = model.offline_batch_generate(
        processor, [{**query, "generate_kwargs": {"max_new_tokens": 20, "stop": ["never", stop]}}]
    )
    assert cut["results"][0]["text"] == text[: text.index(stop)]


def test_drawn_answers_repeat_with_their_seed_whatever_runs_beside(model, processor):
    def drawn(seed):
        kwargs = {"do_sample": True, "seed": seed, "max_new_tokens": 8, "top_k": 0}
        return {"prompt": "a", "generate_kwargs": kwargs}

    first, second = (r["text"] for r in model.offline_batch_generate(processor, [drawn(1), drawn(2)])["results"])
    assert model.offline_batch_generate(processor, [drawn(1)])["results"][0]["text"] == first != second


def test_a_temperature_of_zero_means_the_likeliest_token(model, processor):
    query = {"prompt": "a", "generate_kwargs": {"max_new_tokens": 6}}
    cold = {"prompt": "a", "generate_kwargs": {"max_new_tokens": 6, "do_sample": True, "temperature": 0}}
    first, second = model.offline_batch_generate(processor, [query, cold])["results"]
    assert first["text"] == second["text"]


def test_budgets_belong_to_one_query(model, processor):
    budget = {"prompt": "a", "images": [SHAPES, SHAPES], "media_kwargs": {"multi_image_max_pixels": 20000}}
    alone = ask(model, processor, budget)["results"][0]["text"]
    together = ask(model, processor, budget, budget, budget)["results"]
    assert {result["text"] for result in together} == {alone}


@pytest.mark.parametrize(
    "content",
    [["Describe ", "this"], {"type": "text", "text": "Describe this"}, [{"text": "Describe this"}], "Describe this"],
)
def test_every_way_to_write_a_text_is_understood(content, model, processor):
    (result,) = ask(model, processor, {"messages": [{"role": "user", "content": content}]})["results"]
    assert result["input_text"] == "<|im_start|>user\nDescribe this<|im_end|>\n<|im_start|>assistant\n"


def test_what_a_part_would_not_use_is_refused(model, processor):
    part = {"type": "video", "video": "a.mp4", "segments": [[0, 1]]}
    (result,) = ask(model, processor, {"messages": [{"role": "user", "content": [part]}]})["results"]
    assert "unknown key of a part of type 'video' 'segments'" in result["error"]


def test_bad_sessions_and_media_cost_their_query_only(model, processor):
    good = {"prompt": "Describe"}
    arrays = {"messages": [{"role": "user", "content": "a"}], "images": np.zeros((4, 4, 3))}
    results = ask(model, processor, good, arrays, good, session_states=[[5], [], []])["results"]
    assert ["error" in result for result in results] == [True, True, False]


def test_options_reach_the_choice_of_tokens(model, processor):
    def answer(**kwargs):
        query = {"prompt": "yes", "generate_kwargs": {"max_new_tokens": 8, **kwargs}}
        return model.offline_batch_generate(processor, [query])["results"][0]["text"]

    greedy = answer()
    drawn = answer(do_sample=True, seed=3, top_k=0, temperature=5.0)
    assert greedy == " fram fram fram fram fram six fram six"
    assert drawn != greedy
    for option in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-45}):
        assert answer(**{"do_sample": True, "seed": 3, "top_k": 0, **option}) == greedy
    assert answer(repetition_penalty=5.0).count(" fram") == 1


def test_frames_are_encoded_so_many_at_a_time(model, processor, monkeypatch):
    sizes = []
    encode = type(model.model).encode_vision

    def counting(self, pixel_values, grid_thw, *rest, **options):
        sizes.append(sum(frames for frames, _, _ in grid_thw))
        return encode(self, pixel_values, grid_thw, *rest, **options)

    monkeypatch.setattr(type(model.model), "encode_vision", counting)
    query = {"prompt": "a", "videos": [str(MEDIA / "clip_10fps_6s.mp4")], "generate_kwargs": {"max_new_tokens": 1}}
    model.engine().clear_caches()
    model.offline_batch_generate(processor, [query], vision_chunked_length=4)
    model.engine().clear_caches()
    query["generate_kwargs"]["vision_chunked_length"] = 2
    model.offline_batch_generate(processor, [query], vision_chunked_length=4)
    assert sizes == [4, 2, 2, 2, 2]


def test_pixel_settings_of_a_call_are_used_and_do_not_stay(model, processor):
    def answer(**kwargs):
        return model.offline_image_generate(processor, prompt="Describe", image=SHAPES, max_new_tokens=6, **kwargs)

    plain = answer()
    assert answer(image_mean=[0.0] * 3, image_std=[3.0] * 3) != plain == answer()
    with pytest.raises(OptionError, match="image_std"):
        answer(image_std=[0, 0, 0])
    with pytest.raises(OptionError, match="patch_size=14"):
        answer(patch_size=14)


@pytest.mark.parametrize("name", ["reset_session", "clear_history"])
def test_a_session_begins_anew(name, model, processor):
    session = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    query = {"prompt": "c", "system_prompt": "Be brief.", name: True}
    (after,) = ask(model, processor, query, session_states=[session])["session_states"]
    assert [message["role"] for message in after] == ["system", "user", "assistant"]
