"""Memory of keys and values."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mossvl.model.configuration import MossVLTextConfig


def kv_bytes(config: "MossVLTextConfig", bytes_per_number: int = 2) -> tuple[int, int]:
    """Bytes of keys and values of a text token (self-attention layers) and of a vision token (cross-attention)."""
    crossing = len(config.cross_attention_layers)
    one_layer = 2 * config.num_key_value_heads * config.head_dim * bytes_per_number
    return (config.num_hidden_layers - crossing) * one_layer, crossing * one_layer


def readable_bytes(count: float) -> str:
    """Format a number of bytes: `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
