"""`mossvl bench live` measures what it says."""

from statistics import fmean

import pytest

from mossvl.bench.live import Load, Watchers, fill, film, live, percentile
from mossvl.bench.report import markdown

SMALL = Load(height=64, width=96, window=2, seconds=1, prompts=1, unthrottled=2, paced=(2, 3))


def test_each_figure_is_of_as_many_sessions_and_frames_as_it_says(make):
    rows = list(live(make(), SMALL))
    assert [row.name for row in rows] == [
        "1 session: keys and values",
        "1 session: frame pushed → decision, mean",
        "1 session: prompt → first token",
        "2 sessions as fast as they can: output of each",
        "2 sessions at 12 tokens/s: frame p95",
        "3 sessions at 12 tokens/s: frame p95",
    ]
    assert [len(row.all) for row in rows] == [1, 1, 1, 2, 2, 3]
    assert all(row.value > 0 for row in rows)
    assert [row.statistic for row in rows] == ["median", "mean", "median", "mean", "p95", "p95"]
    assert rows[3].value == pytest.approx(fmean(rows[3].all))
    table = markdown("Live", {"device": "CPU", "date": "today"}, {}, rows)
    assert "| | figure | lowest … highest | |" in table and " tokens/s, mean | " in table and " ms, p95 | " in table


def test_memory_is_that_of_the_window_and_the_text(make):
    llm = make(page_size=4)
    with Watchers(llm, SMALL) as watchers:
        watchers.begin(1, 12.0)
        fill(watchers, SMALL)
        (request,) = llm.engine.scheduler.running
        assert len(request.vision_pages) == -(-2 * 7 // 4), "two frames of 2 × 3 patches, merged, and their separators"
    llm.engine.close()
    assert llm.engine.cache.num_free == llm.engine.cache.num_pages


def test_no_two_frames_are_equal_so_that_each_is_encoded(make):
    llm = make()
    with Watchers(llm, SMALL) as watchers:
        watchers.begin(2, 12.0)
        fill(watchers, SMALL)
        film(watchers, 1)
        requests = list(llm.engine.scheduler.running)
        digests = [digest for request in requests for digest in request.digests]
    assert len(set(digests)) == len(digests) == 6


def test_one_of_twenty_exceeds_the_percentile():
    assert percentile([1.0] * 96 + [9.0] * 4) == 1.0
    assert percentile([1.0] * 90 + [9.0] * 10) == 9.0
    assert percentile([3.0]) == 3.0
