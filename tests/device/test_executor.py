"""A step as arrays is carried out the same by every executor that gets it."""

import pickle

import pytest
import torch
from golden_cases import MEDIA

from mossvl import SamplingParams
from mossvl.device.executor import Executor
from mossvl.device.inputs import StepArrays

QUERIES = [
    {"prompt": "What?", "images": [str(MEDIA / "shapes.png")]},
    {"prompt": "Count."},
    {"prompt": "And in this one?", "videos": [str(MEDIA / "clip_10fps_6s.mp4")], "media_kwargs": {"max_frames": 3}},
]


class Follower:
    """An executor of its own, which carries out what another one was told, as bytes."""

    def __init__(self, leader: Executor) -> None:
        self.executor = Executor(leader.model, leader.config)
        self.outputs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def told(self, name: str, *given: object) -> None:
        given = pickle.loads(pickle.dumps(given))
        output = getattr(self.executor, name)(*given)
        if name == "compute":
            self.outputs.append(output)


def test_a_step_is_carried_out_the_same_by_two_executors(make, monkeypatch):
    llm = make(max_batch=3)
    leader = llm.engine.runner.executor
    follower, outputs = Follower(leader), []

    def listened(name, own):
        def carried_out(*given):
            follower.told(name, *given)
            output = own(*given)
            if name == "compute":
                outputs.append(output)
            return output

        return carried_out

    for name in ("prepare", "store_vision", "compute", "set_last_tokens"):
        monkeypatch.setattr(leader, name, listened(name, getattr(leader, name)))
    params = SamplingParams(max_new_tokens=12, temperature=1.0, seed=3, ignore_eos=True)
    handles = [llm.submit(query, params) for query in QUERIES]
    assert all(len(handle.result(60).token_ids) == 12 for handle in handles)
    assert len(outputs) == len(follower.outputs) > 12
    for (logits, tokens), (same_logits, same_tokens) in zip(outputs, follower.outputs, strict=True):
        assert torch.equal(logits, same_logits) and torch.equal(tokens, same_tokens)
    assert torch.equal(leader.last_tokens, follower.executor.last_tokens)
    assert torch.equal(leader.tables.text, follower.executor.tables.text)


def test_a_step_holds_no_request(make, monkeypatch):
    llm = make()
    seen: list[bytes] = []
    prepare = llm.engine.runner.executor.prepare

    def pickled(step: StepArrays) -> None:
        seen.append(pickle.dumps(step))
        prepare(step)

    monkeypatch.setattr(llm.engine.runner.executor, "prepare", pickled)
    llm.submit(QUERIES[0], SamplingParams(max_new_tokens=4)).result(60)
    assert seen and not any(b"mossvl.scheduling" in one for one in seen)


@pytest.mark.parametrize("count", [1, 3])
def test_each_entry_of_the_page_tables_is_written_once(make, count):
    llm = make(max_batch=3)
    log = llm.engine.runner.table_log
    missing, written = log.missing, []
    log.missing = lambda requests: written.append(missing(requests)) or written[-1]
    params = SamplingParams(max_new_tokens=40, ignore_eos=True)
    handles = [llm.submit(QUERIES[0], params) for _ in range(count)]
    assert all(handle.result(60) for handle in handles)
    for entries in ([update.text for update in written], [update.vision for update in written]):
        places = [place for one in entries for place in one[0].tolist()]
        assert places and len(places) == len(set(places))
