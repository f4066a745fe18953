"""mossvl-tiny learns a live record by heart, and does in a live session what the record says."""

import json

import mossvl
from mossvl.checkpoints.default import CHECKPOINT
from mossvl.data.live import read_example
from mossvl.evaluation.live import evaluate, script_of
from mossvl.evaluation.streaming import Score
from mossvl.processing.processor import MossVLProcessor
from mossvl.synthetic.live_records import tokens_by, write_records
from mossvl.synthetic.streaming import STREAMS
from mossvl.synthetic.world import Split, World
from mossvl.training.options import Part
from mossvl.training.run import TrainOptions, train

PARTS = (Part.MERGER, Part.CROSS_ATTENTION, Part.SELF_ATTENTION, Part.EMBEDDINGS)


def short(task):
    """A stream of a task with few frames."""
    drawn = (STREAMS[task](World(Split.TRAIN, seed)) for seed in range(1000))
    return next(one for one in drawn if len(one.times) <= 8 and len(one.replies) == 2)


def test_a_session_says_what_was_learned_when_it_was_to_be_said(tmp_path):
    tokenise = tokens_by(MossVLProcessor.from_pretrained(CHECKPOINT))
    sample = short("interrupted")
    path = write_records([sample], tmp_path, 64, system_prompt="Watch.", tokenise=tokenise)
    options = TrainOptions(
        str(CHECKPOINT), path, tmp_path / "run", adapt=False, parts=PARTS, max_steps=100, learning_rate=2e-3,
        leading_slot_dropout=0.0, device="cpu", workers=0, save_every=1000,
    )  # fmt: skip
    with mossvl.MossVL(train(options), device="cpu") as llm:
        stream = read_example(json.loads(path.read_text()), tmp_path)
        (found,) = evaluate(llm, [script_of(stream)]).values()
    assert found == Score(precision=1.0, recall=1.0, delay=0.0, right=1.0)
