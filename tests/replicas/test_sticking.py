"""What of a conversation chooses its replica."""

import numpy as np
import pytest

from mossvl.options import SamplingParams
from mossvl.processing.messages import check_messages
from mossvl.replicas.sticking import key_of, size_of


def key(*parts, system=None, then=()):
    first = [] if system is None else [{"role": "system", "content": system}]
    return key_of(check_messages([*first, {"role": "user", "content": list(parts)}, *then]))


IMAGE = {"type": "image", "image": "a.png"}
ARRAY = np.zeros((4, 4, 3), np.uint8)
FOLLOW_UP = [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": ["Why?", IMAGE]}]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (key(IMAGE, "What?"), key("Who?", IMAGE, {"type": "image", "image": "b.png"}, system="Be brief.")),
        (key({"type": "image", "image": b"bytes"}), key({"type": "image", "image": bytearray(b"bytes")})),
        (key({"type": "image", "image": ARRAY}, "What?"), key({"type": "image", "image": ARRAY}, "Who?")),
        (
            key({"type": "video", "video": {"video_path": "a.mp4", "segments": [[0, 4]]}}),
            key({"type": "video", "video": "a.mp4", "max_frames": 3}),
        ),
        (key("Hello", system="Be brief."), key("Hello", system="Be brief.", then=FOLLOW_UP[:1])),
        (key("What?", IMAGE), key("What?", IMAGE, then=FOLLOW_UP)),
    ],
    ids=["a file", "bytes", "an array", "a part of a file", "a beginning", "a conversation about a file"],
)
def test_what_shares_its_first_medium_or_beginning_shares_its_key(one, other):
    assert one == other


def test_other_media_and_other_beginnings_have_other_keys():
    image = {"type": "image", "image": "b.png"}
    keys = [key(IMAGE), key(image), key("What?"), key("Who?"), key("What?", system="Be brief.")]
    assert len(set(keys)) == 5


def test_adapters_share_a_medium_but_no_text():
    medium, text = (check_messages([{"role": "user", "content": content}]) for content in ([IMAGE, "What?"], "What?"))
    assert key_of(medium, "shop") == key_of(medium, "maps") == key_of(medium)
    assert len({key_of(text, "shop"), key_of(text, "maps"), key_of(text)}) == 3


def test_a_longer_prompt_more_media_and_longer_answers_are_more():
    def size(*parts, **params):
        return size_of(check_messages([{"role": "user", "content": list(parts)}]), SamplingParams(**params))

    assert size("x" * 400) - size("") == 100
    assert size("") < size(IMAGE) < size(IMAGE, IMAGE) < size({"type": "video", "video": "a.mp4"})
    assert size("", max_new_tokens=10, n=3) == 30
