"""Pages of keys and values, and which of them can be used again. No tensors here: a page is a number.

A page holds tokens of as many layers as there are cross-attention layers: `page_size` text tokens, or as many vision
tokens as take the same memory. A block of the prompt, that is `page_size` text tokens, needs a page for every such
group of self-attention layers; the vision tokens of a request fill pages of their own. A block that has been computed
is kept under a key: a hash over all tokens up to its end and over the pixels of all frames among them. Its pages, and
those of its frames' vision tokens, are reused by whoever asks for the same, until they are needed for something else.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

NO_ADAPTER = -1
"""The index of no adapter: rows that the model computes as it is."""


class OutOfPages(Exception):
    """More pages were asked for than are free or can be freed."""


@dataclass(slots=True)
class Block:
    """`page_size` tokens of a prompt that have been computed.

    Attributes:
        key: what identifies the block and everything before it.
        text: a page for each group of self-attention layers.
        vision: (index, page): pages of the vision sequence that hold this block's frames. The first and last may hold
            tokens of its neighbours too.
        users: requests that use it now.
    """

    key: bytes
    text: tuple[int, ...]
    vision: tuple[tuple[int, int], ...]
    users: int = 0

    @property
    def pages(self) -> Iterator[int]:
        yield from self.text
        yield from (page for _, page in self.vision)


def block_key(before: bytes, tokens: Sequence[int], frames: Iterable[bytes]) -> bytes:
    """The key of a block: a hash of the key before it, its token ids, and the digests of its frames' pixels."""
    digest = hashlib.blake2b(before, digest_size=16)
    digest.update(array("q", tokens))
    for frame in frames:
        digest.update(b"|" + frame)
    return digest.digest()


def salt_key(salt: str | None, adapter: int = NO_ADAPTER) -> bytes:
    """What stands for the key before the first block, with a salt and an adapter; of another length than other keys."""
    if salt is None and adapter == NO_ADAPTER:
        return b""
    told = f"{adapter}|" + ("" if salt is None else f"|{salt}")
    return hashlib.blake2b(told.encode(), digest_size=32).digest()


def shared_vision(blocks: Sequence[Block]) -> list[int]:
    """The pages of the vision sequence of kept blocks; of two that hold the same tokens, the fuller, later one."""
    pages = dict(pair for block in blocks for pair in block.vision)
    return [pages[index] for index in sorted(pages)]


@dataclass
class PageCache:
    """All pages, and the blocks that are kept.

    A page is pinned while requests hold it or use a block that has it, and owned while kept blocks have it; with
    neither it is free. Blocks that no request uses wait in the order of their last use, the ends of prompts before
    their beginnings, to be given up.

    Attributes:
        keep: whether blocks are kept for others at all.
    """

    num_pages: int
    keep: bool = True
    blocks: dict[bytes, Block] = field(default_factory=dict)
    idle: "OrderedDict[bytes, Block]" = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._free = list(range(self.num_pages - 1, -1, -1))
        self._pins = [0] * self.num_pages
        self._owners = [0] * self.num_pages
        self._pinned = 0

    @property
    def available(self) -> int:
        """Pages that are free or could be freed now."""
        return self.num_pages - self._pinned

    @property
    def num_free(self) -> int:
        return len(self._free)

    def pinned(self, page: int) -> bool:
        """Whether a request holds the page, or uses a block that has it."""
        return self._pins[page] > 0

    def allocate(self, count: int) -> list[int]:
        """`count` pages, pinned once; idle blocks are given up for them, least recently used first.

        Raises:
            OutOfPages: there are not so many; nothing has changed then.
        """
        if count > self.available:
            raise OutOfPages(f"{count} pages wanted, {self.available} of {self.num_pages} available")
        while self.num_free < count:
            self._evict()
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self.pin(page)
        return pages

    def release(self, pages: Iterable[int], blocks: Sequence[Block]) -> None:
        """A request lets go of the pages it pinned and of the blocks it used, given in the order of its prompt."""
        for block in reversed(blocks):
            block.users -= 1
            if not block.users:
                self.idle[block.key] = block
            for page in block.pages:
                self.unpin(page)
        for page in pages:
            self.unpin(page)

    def match(self, keys: Iterable[bytes]) -> list[Block]:
        """The longest run of kept blocks from the start of a prompt."""
        found = []
        for key in keys:
            block = self.blocks.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def use(self, block: Block) -> None:
        """A request begins to use a kept block, which holds its pages until it is released, read or not."""
        block.users += 1
        self.idle.pop(block.key, None)
        for page in block.pages:
            self.pin(page)

    def pin(self, page: int) -> None:
        """A request holds the page."""
        self._pinned += not self._pins[page]
        self._pins[page] += 1

    def unpin(self, page: int) -> None:
        self._pins[page] -= 1
        assert self._pins[page] >= 0
        if not self._pins[page]:
            self._pinned -= 1
            if not self._owners[page]:
                self._free.append(page)

    def add(self, key: bytes, text: tuple[int, ...], vision: tuple[tuple[int, int], ...]) -> Block | None:
        """Keep a block that its request has computed and uses; None if its key is kept already, or nothing is kept."""
        if not self.keep or key in self.blocks:
            return None
        block = self.blocks[key] = Block(key, text, vision)
        for page in block.pages:
            self._owners[page] += 1
        self.use(block)
        return block

    def clear(self) -> None:
        """Give up every block that nobody uses."""
        while self.idle:
            self._evict()

    def _evict(self) -> None:
        key, block = self.idle.popitem(last=False)
        del self.blocks[key]
        for page in block.pages:
            self._owners[page] -= 1
            if not self._owners[page] and not self._pins[page]:
                self._free.append(page)
