"""Allocates pages to requests: at admission and as they grow; releases pages at the end or at preemption."""

from collections.abc import Iterator
from typing import Generic

from mossvl.scheduling.pages import Block, PageCache, shared_vision
from mossvl.scheduling.request import Owner, Request


class Allocator(Generic[Owner]):
    """Allocates pages to requests.

    Args:
        pages_per_block: pages that one block of text needs.
        page_size: text tokens of a page.
        vision_page_size: vision tokens of a page.

    Attributes:
        copies: pages to copy at the beginning of the next step, in this order: (request, source, target).
    """

    def __init__(self, cache: PageCache, pages_per_block: int, page_size: int, vision_page_size: int) -> None:
        self.cache, self.pages_per_block = cache, pages_per_block
        self.page_size, self.vision_page_size = page_size, vision_page_size
        self.copies: list[tuple[Request[Owner], int, int]] = []

    def capacity(self, num_vision: int) -> int:
        """Maximum number of text tokens of a request that has all pages and `num_vision` vision tokens."""
        spare = self.cache.num_pages - self.vision_pages(num_vision)
        return max(0, spare // self.pages_per_block * self.page_size)

    def blocks(self, tokens: int) -> int:
        """Number of blocks that these text tokens fill."""
        return -(-tokens // self.page_size)

    def vision_pages(self, tokens: int) -> int:
        """Number of pages that these vision tokens fill."""
        return -(-tokens // self.vision_page_size)

    def admit(self, request: Request[Owner], blocks: list[Block], reserve: int) -> bool:
        """Allocate a request's pages beyond these cached blocks; return False if fewer than `reserve` would be left."""
        size, context = self.page_size, request.context
        frames = context.frames_between(0, len(blocks) * size)[1]
        shared = shared_vision(blocks)
        in_part = context.vision_range(0, frames)[1] % self.vision_page_size > 0
        # Copy on write: frames of this request follow in a vision page that the cached blocks fill in part.
        source = shared.pop() if in_part and frames < context.num_frames else None
        vision = self.vision_pages(context.num_vision) - len(shared)
        fresh = vision + self.pages_per_block * (self.blocks(context.length) - len(blocks))
        idle = {page for block in blocks for page in block.pages if not self.cache.pinned(page)}
        if fresh + len(idle) + reserve > self.cache.available:
            return False
        for block in blocks:
            self.cache.use(block)
        request.text_pages = [block.text for block in blocks]
        request.vision_pages = shared
        for page in held_pages(request):
            self.cache.pin(page)
        pages = self.cache.allocate(fresh)
        if source is not None:
            self.copies.append((request, source, pages[0]))
        request.vision_pages += pages[:vision]
        request.text_pages += self._in_blocks(pages[vision:])
        request.shares_last_vision = in_part and source is None
        request.blocks, request.committed = blocks, len(blocks)
        request.computed, request.encoded = len(blocks) * size, frames
        return True

    def lacking(self, request: Request[Owner]) -> int:
        """Number of pages that a running request lacks for its next rows and frames."""
        return self.pages_per_block * self._blocks(request) + self._vision(request)

    def needs(self, request: Request[Owner]) -> int:
        """Number of pages that a request needs for its next rows and frames, those that it has included."""
        return len(list(held_pages(request))) + self.lacking(request)

    def grow(self, request: Request[Owner]) -> None:
        """Allocate the pages that a running request lacks; they must be available."""
        blocks, vision = self._blocks(request), self._vision(request)
        pages = self.cache.allocate(self.pages_per_block * blocks + vision)
        if self._must_copy(request):
            source = request.vision_pages.pop()  # The request uses its block, which keeps the page until it is copied.
            self.copies.append((request, source, pages[0]))
            self.cache.unpin(source)
            request.shares_last_vision = False
        request.vision_pages += pages[:vision]
        request.text_pages += self._in_blocks(pages[vision:])

    def free_left(self, request: Request[Owner]) -> None:
        """Free the vision pages of a running request that only frames fill which no row to be computed sees."""
        if request.context.num_left:
            count = request.context.unseen(request.computed) // self.vision_page_size - request.freed
            pages, request.vision_pages = request.vision_pages[:count], request.vision_pages[count:]
            request.freed += count
            self.cache.release(pages, ())

    def release(self, request: Request[Owner]) -> None:
        """Release all pages of a request."""
        self.cache.release(held_pages(request), request.blocks)
        self.copies = [copy for copy in self.copies if copy[0] is not request]
        request.forget_progress()

    def commit(self, request: Request[Owner]) -> Iterator[bytes]:
        """Add complete blocks to the prefix cache; yield their keys."""
        size = self.page_size
        keys = request.keys(size) if self.cache.keep else []
        for number in range(request.committed, min(len(keys), request.computed // size)):
            frames = request.context.frames_between(number * size, (number + 1) * size)
            start, stop = request.context.vision_range(*frames)
            first, last = start // self.vision_page_size, self.vision_pages(stop)
            indices = range(first, last) if stop > start else range(0)
            vision = tuple((index, request.vision_pages[index]) for index in indices)
            block = self.cache.add(keys[number], request.text_pages[number], vision)
            if block is not None:
                request.blocks.append(block)
            request.committed = number + 1
            yield keys[number]

    def _blocks(self, request: Request[Owner]) -> int:
        """Number of text blocks that a running request lacks."""
        rows = request.computed + request.wants_token if request.decoding else request.context.length
        return max(0, self.blocks(rows) - len(request.text_pages))

    def _vision(self, request: Request[Owner]) -> int:
        """Number of vision pages that a running request lacks; none while it decodes."""
        if request.decoding:
            return 0
        held = request.freed + len(request.vision_pages)
        return self.vision_pages(request.context.num_vision) - held + self._must_copy(request)

    def _must_copy(self, request: Request[Owner]) -> bool:
        """Whether appended frames follow in a page that the request shares with a cached block."""
        return request.shares_last_vision and request.encoded < request.context.num_frames

    def _in_blocks(self, pages: list[int]) -> list[tuple[int, ...]]:
        return [tuple(pages[i : i + self.pages_per_block]) for i in range(0, len(pages), self.pages_per_block)]


def held_pages(request: Request[object]) -> Iterator[int]:
    """Yield every page that a request has pinned."""
    for pages in request.text_pages:
        yield from pages
    yield from request.vision_pages
