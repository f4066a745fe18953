"""Paged attention.

Keys and values of one layer are two pools, (pages, kv heads, page size, head_dim), contiguous in the last three
dimensions. A row of the block tables `tables`, (sequences, blocks) int32, holds the pages of a sequence's tokens, in
order. The slot of a token is page · page size + its offset in the page. No function synchronises with the device, and
launch grids depend on shapes alone, so that CUDA graphs can capture all of them and replay with other lengths.
"""

from mossvl.kernels.paged_decode import NewToken, decode_attention
from mossvl.kernels.paged_prefill import TILE_ROWS, choose_splits, prefill_attention
from mossvl.kernels.paged_store import rotate_queries, store, store_keys_values

__all__ = [
    "TILE_ROWS",
    "NewToken",
    "choose_splits",
    "decode_attention",
    "prefill_attention",
    "rotate_queries",
    "store",
    "store_keys_values",
]
