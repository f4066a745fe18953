from leftovers import LEFT, leave_free, needs_glibc, resident

from mossvl import malloc


@needs_glibc
def test_trimming_gives_the_system_what_is_free():
    leave_free()
    before = resident()
    malloc.trim()
    assert before - resident() > LEFT / 2


def test_where_the_allocator_cannot_trim_nothing_happens(monkeypatch):
    monkeypatch.setattr(malloc, "_malloc_trim", None)
    monkeypatch.setattr(malloc, "_mallopt", None)
    malloc.trim()
    malloc.use_one_arena()
