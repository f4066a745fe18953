"""State tokens weigh α (1 − p)^γ, over all batches of all processes of a step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_cases import MEDIA
from safetensors.torch import load_file

from mossvl.errors import OptionError
from mossvl.processing.stream import RESPONSE, SILENCE, StateTokens
from mossvl.training.options import TrainOptions
from mossvl.training.run import train
from mossvl.training.trainer import PackedTrainer
from mossvl.training.weighting import StateWeighting

SCRIPT = Path(__file__).with_name("weighted.py")
VOCABULARY = 8
TOKENS = StateTokens(silence=6, response=7)


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 3), (2, 3)])
def test_loss_and_gradients_of_a_step_are_those_of_all_its_tokens_at_once(processes, accumulate):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), SCRIPT, str(accumulate), "2"]
    ended = subprocess.run(command, capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stdout.decode().splitlines()[-1].endswith("gradients are equal")


@pytest.fixture
def logits():
    return (3 * torch.randn(12, VOCABULARY, generator=torch.Generator().manual_seed(0))).requires_grad_()


def expected(logits, labels, gamma):
    """The weighted mean, token by token, in float64."""
    rows = [
        (row.double().log_softmax(-1)[label], label) for row, label in zip(logits, labels, strict=True) if label >= 0
    ]
    counts = {token: sum(label == token for _, label in rows) for token in (6, 7)}
    weights = [
        sum(counts.values()) / (2 * counts[label]) * (1 - logprob.detach().exp()) ** gamma if label in counts else 1.0
        for logprob, label in rows
    ]
    return -sum(weight * logprob for weight, (logprob, _) in zip(weights, rows, strict=True)) / sum(weights)


LABELS = {
    "both": [6, 6, 7, 1, 2, -100, 6, -100, 7, 3, 6, 6],
    "silence alone": [6, 6, -100, 6, 6, 6, -100, 6, 1, 2, 6, 6],
    "response alone": [1, 7, -100, 7, 2, 7, -100, 3, 1, 2, 4, 5],
    "text alone": [1, 2, 3, -100, 1, 5, 4, 3, 2, 1, 0, -100],
}


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_a_batch_between_steps_is_a_step_of_its_own(labels, gamma, logits):
    loss = StateWeighting(TOKENS, gamma)({})(logits, torch.tensor(labels))
    whole = expected(logits, labels, gamma)
    torch.testing.assert_close(loss, whole.float())
    torch.testing.assert_close(*(torch.autograd.grad(one, logits)[0] for one in (loss, whole)))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_a_step_is_corrected_at_its_end_and_later_batches_know_nothing_of_it(gamma, logits):
    parts = [(logits[:5], LABELS["both"][:5]), (logits[5:], LABELS["both"][5:])]
    weighting = StateWeighting(TOKENS, gamma)
    batches = [{"labels": torch.tensor([[-100, *labels]])} for _, labels in parts]
    assert weighting.begin(batches, torch.device("cpu"), 1, lambda one: one)
    losses = sum(
        weighting(batch)(rows, batch["labels"][0, 1:]) for batch, (rows, _) in zip(batches, parts, strict=True)
    )
    factor = weighting.end(lambda one: one)
    assert (factor is None) == (gamma == 0)
    whole = expected(logits, LABELS["both"], gamma)
    torch.testing.assert_close(losses * (1.0 if factor is None else factor), whole.float())
    alone = weighting({})(logits[:5], torch.tensor(LABELS["both"][:5]))
    torch.testing.assert_close(alone, expected(*parts[0], gamma).float())


def test_a_step_without_state_tokens_is_not_corrected(logits):
    weighting = StateWeighting(TOKENS, 2.0)
    labels = torch.tensor([LABELS["text alone"]])
    assert not weighting.begin([{"labels": labels}], torch.device("cpu"), 1, lambda one: one)
    assert weighting.end(lambda one: one) is None


def test_a_model_that_is_sure_of_all_decisions_has_a_finite_loss():
    logits = torch.zeros(2, VOCABULARY)
    logits[0, 6] = logits[1, 7] = 1000.0
    assert StateWeighting(TOKENS, 2.0)({})(logits, torch.tensor([6, 7])) == 0


@pytest.fixture
def data(tmp_path):
    frames = "".join(
        f"<|video|>{RESPONSE}A car.{SILENCE}" if number == 2 else f"<|video|>{SILENCE}" for number in range(4)
    )
    record = {
        "messages": [{"role": "user", "content": "Watch."}, {"role": "assistant", "content": SILENCE + frames}],
        "videos": [{"video_path": str(MEDIA / "clip_10fps_6s.mp4"), "segments": [[0], [1], [2], [3]]}],
    }
    (tmp_path / "live.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"prompt": "Who?", "response": "I."}))
    return tmp_path / "live.jsonl"


def trained(golden, data, folder, **options):
    """(weights, losses by step) of a run."""
    given = {"accumulate": 2, "max_steps": 2, "log_every": 1, "workers": 0, "device": "cpu", "learning_rate": 1e-2}
    losses = []
    log = PackedTrainer.log
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PackedTrainer, "log", lambda self, logs, *rest: losses.append(logs) or log(self, logs, *rest))
        run = TrainOptions(str(golden / "checkpoint"), data, folder, eval_data=data, **{**given, **options})
        adapter = train(run)
    return load_file(adapter / "adapter_model.safetensors"), losses


def test_live_records_are_trained_and_evaluated_and_options_of_their_loss_have_an_effect(golden, data, tmp_path):
    weights, losses = trained(golden, data, tmp_path / "focal")
    again, _ = trained(golden, data, tmp_path / "again")
    assert all(torch.equal(one, again[name]) for name, one in weights.items())
    assert "eval_right" in losses[-2] or "eval_right" in losses[-1]
    for name, option in {
        "plain": {"state_loss": "plain"},
        "gamma": {"focal_gamma": 0.0},
        "ends": {"turn_end_loss": True},
        "leading": {"leading_slot_dropout": 1.0},
    }.items():
        others, other_losses = trained(golden, data, tmp_path / name, **option)
        assert any(not torch.equal(one, others[part]) for part, one in weights.items()), name
        assert losses[0]["loss"] != other_losses[0]["loss"], name


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"state_loss": "none"}, "state_loss='none' must be 'focal' or 'plain'"),
        ({"focal_gamma": -1.0}, "focal_gamma=-1.0 must be at least 0"),
        ({"focal_gamma": float("nan")}, "focal_gamma=nan must be"),
        ({"leading_slot_dropout": 1.5}, "leading_slot_dropout=1.5 must be at least 0 and at most 1"),
    ],
)
def test_values_without_a_meaning_are_refused(option, told):
    with pytest.raises(OptionError, match=told):
        TrainOptions("checkpoint", Path("data.jsonl"), **option)
