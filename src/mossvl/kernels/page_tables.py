"""Blocks of a sequence's tokens in its pages.

A sequence may begin at any token of its first page, `start`. Its blocks begin at `aligned(start)`, so that those of at
most a page lie in one page each, and others in whole pages.
"""

import triton
import triton.language as tl


@triton.jit
def aligned(start, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """Where the first block of a sequence begins; less than BLOCK tokens before `start`."""
    return start // min(PAGE, BLOCK) * min(PAGE, BLOCK)


@triton.jit
def pages_of(table, first, end, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """The pages of the block that begins at token `first`: (BLOCK / PAGE,), or (1,); 0 from token `end` on."""
    tokens = first + tl.arange(0, (BLOCK + PAGE - 1) // PAGE) * PAGE
    return tl.load(table + tokens // PAGE, mask=tokens < end, other=0)


@triton.jit
def places(pool, pages, stride, first, head, PAGE: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Where a pool has the tokens of a block, WIDTH numbers each: (pages, tokens of each, WIDTH).

    So the compiler sees which tokens are beside each other.
    """
    token = tl.arange(0, min(PAGE, BLOCK))[None, :, None]
    inside = (head * PAGE + first % PAGE + token) * WIDTH + tl.arange(0, WIDTH)[None, None, :]
    return pool + (pages.to(tl.int64) * stride)[:, None, None] + inside


@triton.jit
def in_pages(live, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """The mask (BLOCK,) of a block's tokens, in the shape of `places`."""
    return live.reshape((BLOCK + PAGE - 1) // PAGE, min(PAGE, BLOCK))[:, :, None]


@triton.jit
def page_of(table, first, end, PAGE: tl.constexpr, BLOCK: tl.constexpr):
    """The page of each token of a block; or of all, a number, where they lie in one.

    For masked loads: Triton pipelines those of `places` only without a mask.
    """
    if PAGE % BLOCK == 0:
        page = tl.load(table + first // PAGE, mask=first < end, other=0)
    else:
        tokens = first + tl.arange(0, BLOCK)
        page = tl.load(table + tokens // PAGE, mask=tokens < end, other=0)
    return page


@triton.jit
def rows_in(pool, page, stride, first, head, PAGE: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Where a pool has each token of a block, WIDTH numbers, by `page_of`: (BLOCK,)."""
    if PAGE % BLOCK == 0:
        place = (head * PAGE + first % PAGE) * WIDTH + tl.arange(0, BLOCK) * WIDTH
    else:
        place = (head * PAGE + (first + tl.arange(0, BLOCK)) % PAGE) * WIDTH
    return pool + page.to(tl.int64) * stride + place
