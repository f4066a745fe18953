"""Pages and kept blocks: nothing is lost, nothing is given away twice, and the oldest goes first."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mossvl.scheduling.pages import Block, OutOfPages, PageCache, block_key, shared_vision

PAGES = 12


def keep(cache: PageCache, *keys: bytes) -> list[Block]:
    """Blocks of one page each, as one request computes them from the start of its prompt."""
    pages = cache.allocate(len(keys))
    blocks = [cache.add(key, (page,), ()) for key, page in zip(keys, pages, strict=True)]
    cache.release(pages, blocks)
    return blocks


def test_a_page_is_free_again_when_nobody_has_it():
    cache = PageCache(4)
    pages = cache.allocate(3)
    cache.pin(pages[0])
    cache.release(pages, [])
    assert (cache.num_free, cache.available) == (3, 3)
    cache.unpin(pages[0])
    assert sorted(cache.allocate(4)) == [0, 1, 2, 3]


def test_a_kept_block_outlives_its_request_until_its_page_is_needed():
    cache = PageCache(3)
    (block,) = keep(cache, b"a")
    assert (cache.num_free, cache.available) == (2, 3)
    cache.allocate(2)
    assert cache.match([b"a"]) == [block]
    cache.allocate(1)
    assert not cache.blocks and not cache.idle


def test_too_many_pages_are_refused_and_nothing_is_given_up():
    cache = PageCache(3)
    keep(cache, b"a", b"b")
    cache.allocate(1)
    with pytest.raises(OutOfPages, match="3 pages wanted, 2 of 3 available"):
        cache.allocate(3)
    assert len(cache.match([b"a", b"b"])) == 2


def test_ends_of_prompts_go_before_their_beginnings():
    cache = PageCache(3)
    keep(cache, b"a", b"b", b"c")
    for left in (2, 1, 0):
        cache.allocate(1)
        assert len(cache.match([b"a", b"b", b"c"])) == left


def test_the_least_recently_used_prompt_goes_first():
    cache = PageCache(4)
    a, b = keep(cache, b"a", b"b")
    keep(cache, b"c", b"d")
    for block in (a, b):
        cache.use(block)
    cache.release([], [a, b])
    given_up = []
    for _ in range(4):
        kept = set(cache.blocks)
        cache.allocate(1)
        given_up += kept - set(cache.blocks)
    assert given_up == [b"d", b"c", b"b", b"a"]


def test_no_more_is_given_up_than_needed():
    cache = PageCache(6)
    keep(cache, b"a", b"b", b"c", b"d")
    cache.allocate(3)
    assert list(cache.blocks) == [b"a", b"b", b"c"]


def test_a_block_in_use_holds_all_its_pages():
    """Also those of vision tokens that its user reads elsewhere: they cannot be freed, so they are not available."""
    cache = PageCache(3)
    text, vision = cache.allocate(2)
    block = cache.add(b"a", (text,), ((0, vision),))
    cache.release([text, vision], [block])
    cache.use(block)
    assert cache.available == 1
    with pytest.raises(OutOfPages):
        cache.allocate(2)
    cache.release([], [block])
    assert cache.available == 3


def test_a_page_that_somebody_holds_outlives_its_block():
    cache = PageCache(2)
    (block,) = keep(cache, b"a")
    cache.pin(block.text[0])
    cache.clear()
    assert not cache.blocks and cache.num_free == 1
    cache.unpin(block.text[0])
    assert cache.num_free == 2


def test_a_vision_page_of_two_blocks_is_free_when_both_are_given_up():
    cache = PageCache(3)
    first, second, vision = pages = cache.allocate(3)
    blocks = [cache.add(b"a", (first,), ((0, vision),)), cache.add(b"b", (second,), ((0, vision),))]
    cache.release(pages, blocks)
    cache.allocate(1)
    assert cache.num_free == 0 and list(cache.blocks) == [b"a"]
    cache.clear()
    assert cache.num_free == 2


def test_the_second_of_two_equal_blocks_is_not_kept():
    cache = PageCache(4)
    keep(cache, b"a")
    pages = cache.allocate(1)
    assert cache.add(b"a", tuple(pages), ()) is None
    cache.release(pages, [])
    cache.clear()
    assert cache.num_free == 4


def test_where_nothing_is_kept_nothing_is_found():
    cache = PageCache(2, keep=False)
    pages = cache.allocate(1)
    assert cache.add(b"a", tuple(pages), ()) is None
    assert not cache.match([b"a"]) and not cache.blocks


def test_clear_leaves_blocks_that_are_used():
    cache = PageCache(4)
    a, _ = keep(cache, b"a", b"b")
    cache.use(a)
    cache.clear()
    assert list(cache.blocks) == [b"a"] and cache.num_free == 3


def test_a_match_ends_where_a_block_is_missing():
    cache = PageCache(4)
    keep(cache, b"a", b"c")
    assert [block.key for block in cache.match([b"a", b"b", b"c"])] == [b"a"]
    assert cache.match([]) == []


def test_of_two_vision_pages_with_the_same_tokens_the_later_block_has_the_fuller():
    blocks = [Block(b"a", (0,), ((0, 1), (1, 2))), Block(b"b", (3,), ()), Block(b"c", (4,), ((1, 5), (2, 6)))]
    assert shared_vision(blocks) == [1, 5, 6]
    assert shared_vision(blocks[:2]) == [1, 2]
    assert shared_vision([]) == []


def test_a_key_stands_for_everything_before_it():
    keys = [
        block_key(b"", [1, 2], []),
        block_key(b"", [12], []),
        block_key(b"", [2, 1], []),
        block_key(b"", [1, 2], [b"x"]),
        block_key(b"", [1, 2], [b"y"]),
        block_key(b"", [1, 2], [b"x", b"y"]),
        block_key(b"", [1, 2], [b"y", b"x"]),
        block_key(block_key(b"", [1, 2], []), [1, 2], []),
        block_key(block_key(b"", [1, 2], [b"x"]), [1, 2], []),
    ]
    assert len(set(keys)) == len(keys)
    assert block_key(b"", [1, 2], iter([b"x"])) == keys[3]


@dataclass(eq=False)
class Holder:
    pages: list[int]
    blocks: list[Block] = field(default_factory=list)


class AnyUse(RuleBasedStateMachine):
    """Requests take pages, keep and use blocks, and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PageCache(PAGES)
        self.holders: list[Holder] = []
        self.idle: list[bytes] = []

    def _holder(self, number: int) -> Holder:
        return self.holders[number % len(self.holders)]

    @rule(count=st.integers(0, PAGES + 1))
    def takes_pages(self, count: int) -> None:
        free, available, blocks = self.cache.num_free, self.cache.available, set(self.cache.blocks)
        pinned = {page for page in range(PAGES) if self.cache.pinned(page)}
        if count > available:
            with pytest.raises(OutOfPages):
                self.cache.allocate(count)
            assert (self.cache.num_free, set(self.cache.blocks)) == (free, blocks)
            return
        pages = self.cache.allocate(count)
        assert len(set(pages)) == count and not pinned & set(pages)
        given_up = blocks - set(self.cache.blocks)
        assert given_up == set(self.idle[: len(given_up)])
        assert bool(given_up) == (count > free)
        del self.idle[: len(given_up)]
        self.holders.append(Holder(pages))

    @precondition(lambda self: self.holders)
    @rule(who=st.integers(0), key=st.binary(min_size=1, max_size=1), text=st.integers(1, 2), vision=st.integers(0, 2))
    def keeps_a_block(self, who: int, key: bytes, text: int, vision: int) -> None:
        holder = self._holder(who)
        taken = {page for block in self.cache.blocks.values() for page in block.text}
        own = [page for page in holder.pages if page not in taken]
        if len(own) < text + vision:
            return
        known = key in self.cache.blocks
        block = self.cache.add(key, tuple(own[:text]), tuple(enumerate(own[text : text + vision])))
        assert (block is None) == known
        if block is not None:
            holder.blocks.append(block)

    @precondition(lambda self: self.holders and self.cache.blocks)
    @rule(who=st.integers(0), which=st.integers(0), uses=st.booleans(), pins=st.booleans())
    def shares_a_block(self, who: int, which: int, uses: bool, pins: bool) -> None:
        holder, blocks = self._holder(who), list(self.cache.blocks.values())
        block = blocks[which % len(blocks)]
        if uses and block not in holder.blocks:
            self.cache.use(block)
            holder.blocks.append(block)
            if block.key in self.idle:
                self.idle.remove(block.key)
        if pins:
            for page in block.text:
                self.cache.pin(page)
                holder.pages.append(page)

    @precondition(lambda self: self.holders)
    @rule(who=st.integers(0))
    def goes(self, who: int) -> None:
        holder = self._holder(who)
        self.holders.remove(holder)
        self.cache.release(holder.pages, holder.blocks)
        used = [block for other in self.holders for block in other.blocks]
        self.idle += [block.key for block in reversed(holder.blocks) if block not in used]

    @rule()
    def everything_idle_is_given_up(self) -> None:
        self.cache.clear()
        self.idle = []

    @invariant()
    def every_page_is_accounted_for(self) -> None:
        used = [block for holder in self.holders for block in holder.blocks]
        pinned = {page for holder in self.holders for page in holder.pages}
        pinned |= {page for block in used for page in block.pages}
        owned = {page for block in self.cache.blocks.values() for page in block.pages}
        assert self.cache.num_free == PAGES - len(pinned | owned)
        assert self.cache.available == PAGES - len(pinned)
        assert [page for page in range(PAGES) if self.cache.pinned(page)] == sorted(pinned)
        assert list(self.cache.idle) == self.idle
        assert all(block.users == used.count(block) for block in self.cache.blocks.values())

    def teardown(self) -> None:
        while self.holders:
            self.goes(0)
        self.cache.clear()
        assert self.cache.num_free == self.cache.available == PAGES and not self.cache.blocks


TestAnyUse = AnyUse.TestCase
TestAnyUse.settings = settings(stateful_step_count=30)
