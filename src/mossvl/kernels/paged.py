"""Attention over keys and values that lie in pages.

Keys and values of one layer are two pools, (pages, kv heads, page size, head_dim), contiguous in the last three
dimensions. A sequence is a row of `tables`, (sequences, blocks) int32: the pages of its tokens, in order. The slot of a
token is page · page size + its place in the page. Nothing here waits for the device, and every grid depends on shapes
alone, so that all of it can be captured in a CUDA graph and replayed with other lengths.
"""

from mossvl.kernels.paged_decode import decode_attention
from mossvl.kernels.paged_prefill import TILE_ROWS, choose_splits, prefill_attention
from mossvl.kernels.paged_store import rotate_queries, store, store_keys_values

__all__ = [
    "TILE_ROWS",
    "choose_splits",
    "decode_attention",
    "prefill_attention",
    "rotate_queries",
    "store",
    "store_keys_values",
]
