"""Media and prompts together: plans, chunks, batches, and what is refused."""

import threading
from contextlib import ExitStack, suppress

import numpy as np
import pytest
import torch
from golden_cases import MEDIA
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mossvl.errors import GenerationCancelled, InputError, MediaError, OptionError, PromptError
from mossvl.media.limits import MediaLimits
from mossvl.options import MediaOptions
from mossvl.processing import tensors
from mossvl.processing.messages import check_messages, media_of, without_special
from mossvl.processing.pixels import PatchLayout, normalise
from mossvl.processing.prompt import ExpandedPrompt, check_placeholders

CLIP, SHAPES, TALL = str(MEDIA / "clip_10fps_6s.mp4"), str(MEDIA / "shapes.png"), str(MEDIA / "tall.png")


def plan_video(processor, video, **options):
    with ExitStack() as stack:
        media = MediaOptions.from_dict(options)
        return processor.video_processor.plan([video], media, MediaLimits(), stack)


def test_every_segment_is_a_unit_with_its_own_placeholder(processor):
    video = {"video_path": CLIP, "segments": [[0, 1.5], [2.0], [3, 6]]}
    plans = plan_video(processor, video, video_fps=2)
    assert [plan.timestamps for plan in plans] == [(0, 0.5, 1.0), (2.0,), (3, 3.5, 4, 4.5, 5, 5.5)]
    batch = processor("<|video|>then<|video|>, <|video|>", videos=[video], video_fps=2)
    assert batch["grid_thw"][:, 0].tolist() == [3, 1, 6]
    message = [{"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": "?"}]}]
    assert processor.render(message).count("<|video|>") == 3


def test_times_of_a_segment_count_from_its_start_if_that_is_asked_for(processor):
    video = {"video_path": CLIP, "segments": [[0, 1.5], [2.0], [3.5, 6]], "times": "segment"}
    plans = plan_video(processor, video, video_fps=2)
    assert [plan.timestamps for plan in plans] == [(0, 0.5, 1.0), (0,), (0, 0.5, 1, 1.5, 2)]
    in_the_clip = plan_video(processor, {**video, "times": "clip"}, video_fps=2)
    assert [plan.indices for plan in plans] == [plan.indices for plan in in_the_clip]
    assert in_the_clip[2].timestamps == (3.5, 4, 4.5, 5, 5.5)


def test_a_frame_that_is_shown_before_its_segment_is_told_with_the_start_of_the_segment(processor):
    pictures = [Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(3)]
    frames = list(zip((0.0, 1.0, 9.0), pictures, strict=True))
    (plan,) = plan_video(processor, {"video_path": frames, "segments": [[5, 9.5]], "times": "segment"}, video_fps=2)
    assert (plan.indices, plan.timestamps) == ((1, 2), (0, 4))


def test_a_segments_part_of_the_bounds_is_its_part_of_the_length(processor):
    video = {"video_path": CLIP, "segments": [[0, 1], [2, 5]]}
    assert [plan.num_frames for plan in plan_video(processor, video, video_fps=10, max_frames=8)] == [2, 6]
    assert [plan.num_frames for plan in plan_video(processor, video, video_fps=0.1, min_frames=8)] == [2, 6]


def test_a_segment_is_cut_to_the_video(processor):
    (plan,) = plan_video(processor, {"video_path": CLIP, "segments": [[4, 100]]})
    assert plan.timestamps == (4.0, 5.0)


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([[3, 2]], "must end after it starts"),
        ([[2, 2]], "must end after it starts"),
        ([[-1, 2]], "not negative"),
        ([[float("nan"), 2]], "not negative"),
        ([[7, 9]], "outside the video, which lasts 6.000 seconds"),
        ([[6.5]], "outside"),
        ([[1, 2, 3]], "must be"),
        ([3], "must be"),
        ([["a", "b"]], "must be"),
        ([], "empty"),
        ("1-2", "must be a list"),
    ],
)
def test_bad_segments_are_refused(segments, words, processor):
    with pytest.raises(MediaError, match=words):
        plan_video(processor, {"video_path": CLIP, "segments": segments})


@pytest.mark.parametrize(
    ("video", "error", "words"),
    [
        ({"path": CLIP}, OptionError, "key of a video"),
        ({"video_path": CLIP, "segments": [[0, 1]], "times": "start"}, OptionError, "'clip' or 'segment'"),
        ({"segments": [[0, 1]]}, MediaError, 'needs "video_path"'),
        ({"video_path": None}, MediaError, 'needs "video_path"'),
        (3, MediaError, None),
        (None, MediaError, None),
    ],
)
def test_bad_videos_are_refused(video, error, words, processor):
    with pytest.raises(error, match=words):
        plan_video(processor, video)


def test_bad_segments_are_told_with_the_name_of_their_video(processor):
    frames = [(0.0, Image.new("RGB", (64, 64))), (1.0, Image.new("RGB", (64, 64)))]
    for source, name in ((CLIP, r"clip_10fps_6s\.mp4"), (frames, "the video")):
        with pytest.raises(MediaError, match=f"{name}: segment .* must end after it starts"):
            plan_video(processor, {"video_path": source, "segments": [[3, 2]]})


def test_an_image_beyond_the_limit_is_refused(processor):
    most = MediaLimits(image_pixels=64 * 64)
    pictures = [Image.new("RGB", size) for size in ((64, 64), (64, 65))]
    with ExitStack() as stack:
        options = MediaOptions.from_dict({"min_pixels": 1024})
        assert len(processor.image_processor.plan(pictures[:1], options, most, stack)) == 1
        with pytest.raises(MediaError, match="64 x 65 pixels, more than the 4096 allowed"):
            processor.image_processor.plan(pictures, options, most, stack)


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (201, 1)])
def test_tiny_images_work_and_thin_ones_are_refused(size, processor):
    image = Image.new("RGB", size)
    if max(size) > 200:
        with pytest.raises(MediaError, match="200 times"):
            processor("<|image|>", images=[image])
    else:
        assert processor("<|image|>", images=[image])["grid_thw"].tolist() == [[1, 4, 4]]


def test_a_decompression_bomb_is_refused_before_it_is_decoded(processor, tmp_path):
    file = tmp_path / "bomb.png"
    Image.new("1", (30_000, 30_000)).save(file)
    with pytest.raises(MediaError, match="30000 x 30000"):
        processor("<|image|>", images=[str(file)])


def test_no_spans_mean_nothing_to_learn(processor):
    assert (processor("abc", labels_spans=[[]])["labels"] == -100).all()
    assert (processor("abc", labels_spans=[])["labels"] == -100).all()


def test_videos_share_their_pixels(processor):
    with ExitStack() as stack:
        options = MediaOptions(video_max_pixels=80_000)
        plans = processor.video_processor.plan([CLIP, CLIP], options, MediaLimits(), stack)
    assert sum(plan.num_frames * plan.height * plan.width for plan in plans) <= 80_000
    assert len(plan_video(processor, CLIP, video_fps=10, video_max_pixels=20_000, min_pixels=4096)[0].indices) == 4


@pytest.mark.parametrize("turned", [False, True])
def test_videos_share_their_pixels_by_what_they_have(turned, processor):
    long, square = ((64, 256) if turned else (256, 64)), (64, 64)
    videos = [[(t, Image.new("RGB", size)) for t in (0.0, 1.0)] for size in (long, square)]
    with ExitStack() as stack:
        options = MediaOptions(video_max_pixels=2 * 10_240, min_pixels=1024)  # half of all: a side over √2
        plans = processor.video_processor.plan(videos, options, MediaLimits(), stack)
    assert [(plan.height, plan.width) for plan in plans] == [(160, 32) if turned else (32, 160), (32, 32)]


def test_pixels_for_less_than_one_frame_are_one_frame(processor):
    (plan,) = plan_video(processor, CLIP, video_max_pixels=2048, min_pixels=4096)
    assert plan.num_frames == 1


def test_reading_of_media_stops_when_it_is_cancelled(processor):
    cancel = threading.Event()
    with ExitStack() as stack:
        planned = processor.plan("<|video|>", [], [CLIP], MediaOptions(), stack)
        chunks = tensors.chunks(planned.plans, processor.image_processor, 1, cancel)
        next(chunks)
        cancel.set()
        with pytest.raises(GenerationCancelled):
            list(chunks)


def test_frames_with_timestamps_are_a_video(processor):
    frames = [(t, np.full((64, 64, 3), 40 * t, np.uint8)) for t in range(4)]
    assert processor.video_processor(frames)["grid_thw"].tolist() == [[4, 4, 4]]
    batch = processor("<|video|>", videos=[frames])
    assert batch["grid_thw"].tolist() == [[4, 4, 4]]


def test_chunks_are_the_whole_in_order(processor):
    sources = {"images": [SHAPES, TALL], "videos": [CLIP]}
    text = "<|image|><|video|><|image|>"
    whole, settings = processor(text, **sources)["pixel_values"], processor.image_processor
    for frames in (1, 3, 100):
        with ExitStack() as stack:
            planned = processor.plan(text, *sources.values(), MediaOptions(), stack)
            chunks = list(tensors.chunks(planned.plans, processor.image_processor, frames))
        patches = torch.cat([patches for patches, _ in chunks])
        assert torch.equal(normalise(patches, settings.image_mean, settings.image_std), whole)
        assert all(len(pixels) == grid.prod(1).sum() for pixels, grid in chunks)
        assert all(grid[:, 0].sum() <= frames for _, grid in chunks)


def test_patches_are_in_merge_block_order():
    layout = PatchLayout()
    picture = torch.arange(64).repeat_interleave(16).view(1, 1, -1).expand(3, 64, -1)[:, :, :64].contiguous()
    picture = picture * 0 + torch.arange(4).repeat_interleave(16)[None, :, None] * 4
    picture = picture + torch.arange(4).repeat_interleave(16)[None, None, :]
    numbers = layout.cut(picture)[:, 0].tolist()
    assert numbers == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_its_prompts_padded(side, processor):
    texts = ["<|image|>a", "no media", "<|image|>b<|image|>, <|video|>"]
    images, videos = [SHAPES, TALL, SHAPES], [CLIP]
    batch = processor(texts, images, videos, padding_side=side)
    nested = processor(texts, [[SHAPES], None, [TALL, SHAPES]], [None, None, [CLIP]], padding_side=side)
    assert all(
        torch.equal(value, nested[name]) if isinstance(value, torch.Tensor) else value == nested[name]
        for name, value in batch.items()
    )
    assert batch["media_nums_per_sample"] == [1, 0, 3]
    singles = [processor(texts[0], [SHAPES]), processor(texts[1]), processor(texts[2], [TALL, SHAPES], [CLIP])]
    for row, single in enumerate(singles):
        real = batch["attention_mask"][row].bool()
        assert torch.equal(batch["input_ids"][row, real], single["input_ids"][0])
        frames = single["cross_attention_mask"].shape[-1]
        assert torch.equal(batch["cross_attention_mask"][row, :, real, :frames], single["cross_attention_mask"][0])
        assert batch["cross_attention_mask"][row, :, :, frames:].all()
    pixels = torch.cat([single["pixel_values"] for single in singles if "pixel_values" in single])
    assert torch.equal(batch["pixel_values"], pixels)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_processed_batch_runs_as_its_prompts_do(side, model, processor):
    texts = ["a<|image|>", "no media", "<|image|>b<|image|>, <|video|>"]
    batch = processor(texts, [SHAPES, TALL, SHAPES], [CLIP], padding_side=side)
    logits = model(**batch).logits
    singles = [processor(texts[0], [SHAPES]), processor(texts[1]), processor(texts[2], [TALL, SHAPES], [CLIP])]
    for row, single in enumerate(singles):
        real = batch["attention_mask"][row].bool()
        torch.testing.assert_close(logits[row, real], model(**single).logits[0], atol=1e-5, rtol=1e-5)


def test_prompts_without_media_need_no_blank_image(model, processor):
    plain, blank = processor("hello"), processor("hello", blank_image_for_text=True)
    assert "pixel_values" not in plain
    assert blank["grid_thw"].tolist() == [[1, 8, 8]]
    with torch.no_grad():
        assert torch.equal(model(**plain).logits, model(**blank).logits)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"text": "a", "images": [SHAPES]}, PromptError, "0 <|image|> placeholders, but 1 images"),
        ({"text": "<|image|><|image|>", "images": [SHAPES]}, PromptError, "2 <|image|> placeholders, but 1 images"),
        ({"text": "<|video|>"}, PromptError, "1 <|video|> placeholders, but 0 videos"),
        ({"text": "<|image_pad|>"}, PromptError, "1 <|image_pad|> tokens, but the media have 0 frames"),
        ({"text": ["a", "b"], "images": [[SHAPES]]}, PromptError, "1 lists for 2 prompts"),
        ({"text": ["a", "b b"], "padding": False}, OptionError, "padding=True"),
        ({"text": "a", "max_frame": 3}, OptionError, "did you mean 'max_frames'"),
        ({"text": "a", "return_tensors": "np"}, OptionError, "return_tensors"),
        ({"text": []}, PromptError, "no prompt"),
        ({"text": "a", "padding": "max_length"}, OptionError, "pad to the longest"),
        ({"text": "<|image|>", "images": [SHAPES], "min_pixels": 10**12}, OptionError, "min_pixels would make"),
        ({"text": "<|video|>", "videos": [CLIP], "video_fps": 1e308}, OptionError, "at most"),
        ({"text": "abc", "labels_spans": [[2, 9]]}, OptionError, "not a span"),
        ({"text": ["a", "b"], "labels_spans": [[[0, 1]]]}, OptionError, "1 lists of spans for 2 prompts"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(arguments, error, words, processor):
    with pytest.raises(error) as caught:
        processor(**arguments)
    assert words in str(caught.value)


def test_any_text_loses_its_special_tokens():
    special = ["<|a|>", "<|ab|>", "ab"]

    @given(st.text("<|ab>", max_size=30))
    def check(text):
        cleaned = without_special(text, special)
        assert not any(token in cleaned for token in special)

    check()


@given(st.lists(st.sampled_from(["<|image|>", "<|video|>", "x", "yz"]), max_size=12))
def test_positions_survive_expansion(pieces):
    text = "".join(pieces)
    media = ["[long medium]"] * len(check_placeholders(text, text.count("<|image|>"), text.count("<|video|>")))
    expanded = ExpandedPrompt.expand(text, media)
    for index, character in enumerate(text):
        if character in "xyz":
            assert expanded.text[expanded.position(index)] == character
    assert expanded.position(len(text)) == len(expanded.text)


values = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([SHAPES, CLIP, "missing.png", str(MEDIA), {"video_path": CLIP, "segments": [[1, 2]]}]),
)


def test_any_call_works_or_is_refused_with_an_input_error(processor):
    @given(
        text=st.one_of(
            st.lists(st.sampled_from(["<|image|>", "<|video|>", "hi", "<|im_end|>"]), max_size=3).map("".join),
        ),
        images=st.one_of(st.none(), st.lists(values, max_size=2)),
        videos=st.one_of(st.none(), st.lists(values, max_size=2)),
        options=st.dictionaries(
            st.sampled_from(["min_pixels", "max_pixels", "video_fps", "max_frames", "nonsense"]), values, max_size=2
        ),
    )
    def check(text, images, videos, options):
        with suppress(InputError):
            processor(text, images, videos, **options)

    check()


def planned(processor, parts, **options):
    messages = check_messages([{"role": "user", "content": parts}])
    images, videos = media_of(messages)
    with ExitStack() as stack:
        media = MediaOptions.from_dict(options)
        return processor.plan_media(processor.render(messages), images, videos, media, stack)


def test_options_of_a_part_go_before_those_of_the_query(processor):
    fast = {"type": "video", "video": CLIP, "video_fps": 2, "max_pixels": 16_384}
    first, second, large, small = planned(
        processor,
        [
            fast,
            {"type": "video", "video": CLIP},
            {"type": "image", "image": SHAPES},
            {"type": "image", "image": SHAPES, "max_pixels": 16_384},
        ],
        video_fps=1,
    )
    assert (first.num_frames, second.num_frames) == (12, 6)
    assert first.height * first.width <= 16_384 < second.height * second.width
    assert small.height * small.width <= 16_384 < large.height * large.width


def test_a_video_with_its_own_most_frames_leaves_the_others_theirs(processor):
    own = {"type": "video", "video": CLIP, "max_frames": 3}
    assert [plan.num_frames for plan in planned(processor, [own, {"type": "video", "video": CLIP}], max_frames=5)] == [
        3,
        5,
    ]


def test_videos_share_frames_by_the_lengths_of_whole_clips_whatever_segments_are_seen(processor):
    videos = [{"video_path": CLIP, "segments": segments} for segments in ([[0.5, 1.5]], [[2.0, 4.0]])]
    parts = [{"type": "video", "video": video} for video in videos]
    plans = planned(processor, parts, video_fps=4, max_frames=10)
    assert [plan.timestamps for plan in plans] == [(0.5, 0.75, 1.0, 1.25), (2.0, 2.4, 2.8, 3.2, 3.6)]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "video", "video": CLIP, "fps": 2}, "did you mean 'video_fps'"),
        ({"type": "image", "image": SHAPES, "max_frames": 2}, "unknown key of a part"),
        ({"type": "video", "video": CLIP, "max_frames": 0}, "at least 1"),
        ({"type": "video", "video": CLIP, "min_frames": 9, "max_frames": 3}, "is more than"),
    ],
)
def test_options_of_a_part_are_checked(part, words):
    with pytest.raises(OptionError, match=words):
        check_messages([{"role": "user", "content": [part]}])


def test_what_one_video_is_limited_to_is_not_what_the_others_are(processor):
    large = {"type": "video", "video": CLIP, "min_pixels": 262_144}
    first, second = planned(
        processor, [{"type": "video", "video": CLIP}, large], video_fps=10, video_max_pixels=1_000_000
    )
    alone = planned(processor, [large], video_fps=10, video_max_pixels=1_000_000)[0]
    assert second.num_frames <= alone.num_frames == 3 < first.num_frames


def test_texts_that_follow_each_other_hold_no_special_token(processor):
    parts = [{"type": "text", "text": text} for text in ("a<|im_", "", "end|><|ima", "ge|>b")]
    text = processor.render(check_messages([{"role": "user", "content": parts}]))
    assert text == processor.render(check_messages([{"role": "user", "content": "ab"}]))


def test_frames_that_are_given_have_the_times_that_are_given(processor):
    (plan,) = plan_video(processor, [(seconds, SHAPES) for seconds in (5, 6.5, 15)])
    assert plan.timestamps == (5.0, 6.5, 15.0)
