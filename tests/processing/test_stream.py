"""The text of live streams, to the byte."""

import hashlib

import pytest

from mossvl.errors import CheckpointError
from mossvl.processing.stream import (
    REALTIME,
    RESPONSE,
    SILENCE,
    StateTokens,
    frame_text,
    mentioning,
    opening_text,
    prompt_text,
)


def test_each_frame_of_a_stream_has_marks_of_its_own():
    assert [frame_text(time) for time in (0, 1.25, 86400.0)] == [
        "<|vision_start|><|time_start|>0.0 seconds<|time_end|><|image_pad|><|vision_end|>",
        "<|vision_start|><|time_start|>1.2 seconds<|time_end|><|image_pad|><|vision_end|>",
        "<|vision_start|><|time_start|>86400.0 seconds<|time_end|><|image_pad|><|vision_end|>",
    ]


def test_a_stream_begins_with_a_system_turn_and_a_prompt_and_goes_on_with_prompts():
    assert opening_text("Watch.", "") + SILENCE + prompt_text("And now?") == (
        "<|im_start|>system\nWatch.<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n<|silence|>"
        "<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_opening_is_what_the_chat_template_makes_of_it(processor):
    turns = [{"role": "system", "content": "Watch."}, {"role": "user", "content": "Speak."}]
    assert opening_text("Watch.", "Speak.") == processor.render(turns)


def test_the_published_system_prompt_is_kept_to_the_byte():
    assert "silent \N{EM DASH} output `<|silence|>` when" in REALTIME
    assert hashlib.sha256(REALTIME.encode()).hexdigest().startswith("a7d0a987b5147c41")


def test_a_system_prompt_may_mention_state_tokens_and_no_other_special_token(processor):
    assert (
        mentioning("Say <|silence|> or <|resp<|im_end|>onse|>.", processor.removed)
        == "Say <|silence|> or <|response|>."
    )


def test_state_tokens_are_found_by_name(processor):
    tokens = StateTokens.of(processor.tokenizer)
    assert processor.tokenizer.convert_ids_to_tokens([tokens.silence, tokens.response]) == [SILENCE, RESPONSE]


def test_a_checkpoint_without_state_tokens_is_told_what_it_lacks(processor):
    class Lacking:
        added_tokens_decoder = {
            number: token
            for number, token in processor.tokenizer.added_tokens_decoder.items()
            if token.content != RESPONSE
        }

        def get_vocab(self):
            return {token.content: number for number, token in self.added_tokens_decoder.items()}

    assert StateTokens.find(Lacking()) is None
    with pytest.raises(CheckpointError, match=r"has no <\|response\|>, with"):
        StateTokens.of(Lacking())
