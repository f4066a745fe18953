"""The media cache keeps what was used last."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mossvl.sources.memory import MediaMemory, Recent


@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.sampled_from(["get", "put"]), st.none() | st.integers(0, 6)), max_size=60),
)
def test_the_least_recently_used_are_dropped(entries, uses):
    recent, used = Recent(entries), []  # The model: keys by their last use.
    for number, (use, key) in enumerate(uses):
        if use == "get":
            assert (recent.get(key) is not None) == (key in used)
        else:
            recent.put(key, number)
        if key is not None and (use == "put" or key in used):
            used = [one for one in used if one != key] + [key]
            used = used[-entries:] if entries else []


def test_a_value_that_is_put_again_replaces_the_first():
    recent = Recent(2)
    recent.put("a", 1)
    recent.put("a", 2)
    assert recent.get("a") == 2


@pytest.mark.parametrize("count", [1, 3])
def test_so_many_media_are_remembered_as_are_allowed_beside_their_prompts(count):
    memory = MediaMemory(count)
    for number in range(count):
        memory.plans.put(("prompt", number), [])
        memory.digests.put(("medium", number), [b"digest"])
    assert all(memory.digests.get(("medium", number)) for number in range(count))
    assert all(memory.plans.get(("prompt", number)) == [] for number in range(count))
