"""Tokens of a live session as the video protocol tells them."""

from typing import Any

from mossvl.live.usage import Usage


def counted(usage: Usage) -> dict[str, Any]:
    """What is settled."""
    return {
        "vision_tokens": usage.vision,
        "text_input_tokens": usage.text_input,
        "text_output_tokens": usage.text_output,
        "text_tokens": usage.text,
        "total_tokens": usage.vision + usage.text,
    }


def telemetry(usage: Usage) -> dict[str, Any]:
    """How full the session is."""
    return {
        "encoder_tokens": usage.vision,
        "decoder_tokens": usage.text,
        "encoder_kv_tokens": usage.held,
        "token_space_used": usage.vision + usage.text,
        "context_limit": usage.limit,
        "context_remaining": max(0, usage.limit - usage.text),
    }
