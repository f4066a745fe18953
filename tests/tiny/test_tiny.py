"""mossvl-tiny: its size, its tokenizer, its recipe, and training that goes on where it stopped."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from mossvl.checkpoints.default import CHECKPOINT
from mossvl.errors import OptionError
from mossvl.model.modeling import MossVLLMHeadModel
from mossvl.processing.processor import MossVLProcessor
from mossvl.synthetic.editions import SECOND
from mossvl.synthetic.streaming import STREAMS
from mossvl.synthetic.tasks import TASKS, tasks_of
from mossvl.tiny.architecture import SPECIAL_TOKENS, configuration, tokenizer_from
from mossvl.tiny.recipe import RECIPE, Recipe, single_tasks
from mossvl.tiny.train import processor_for, train_stage, trainer_of, untrained


@pytest.fixture(scope="module")
def tokenizer():
    return MossVLProcessor.from_pretrained(CHECKPOINT).tokenizer


def test_weights_take_at_most_16_megabytes_in_bfloat16(tokenizer):
    with torch.device("meta"):
        model = MossVLLMHeadModel(configuration(tokenizer))
    assert 2 * sum(parameter.numel() for parameter in model.parameters()) <= 16e6
    crossing = model.config.text_config.cross_attention_layers
    assert [after - before for before, after in pairwise(crossing)] == [4, 4]


def test_special_tokens_are_single_and_words_to_be_read_are_spelt(tokenizer):
    assert all(len(tokenizer.tokenize(token)) == 1 for token in SPECIAL_TOKENS)
    spelt = tokenizer.tokenize("It says KQ7X.")
    assert [piece.lstrip("Ġ") for piece in spelt[-5:]] == ["K", "Q", "7", "X", "."]
    assert tokenizer.decode(tokenizer("It says KQ7X – ½ é.")["input_ids"]) == "It says KQ7X – ½ é."


def test_a_tokenizer_needs_enough_text():
    with pytest.raises(ValueError, match="are needed; give more texts"):
        tokenizer_from(["a few words"])


def test_the_recipe_asks_known_tasks():
    for stage in Recipe.read().stages:
        assert all(set(single_tasks(tasks)) <= set(TASKS) for _, tasks in stage.phases)
        assert stage.phases[0][0] == 0


@pytest.mark.parametrize(
    ("given", "message"), [("x = 1", "not a recipe"), ("[", "not a recipe"), (None, "questions=0")]
)
def test_what_is_no_recipe_is_refused(given, message, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(given or RECIPE.read_text().replace("questions = 40", "questions = 0"))
    with pytest.raises(OptionError, match=message):
        Recipe.read(path)


def test_groups_share_their_part():
    shares = single_tasks({"clips": 2.0, "order": 1.0})
    assert sum(shares.values()) == pytest.approx(3.0) and shares["order"] > 1.0 > shares["when"]


def test_each_task_is_asked_while_it_learns(tmp_path):
    stage = replace(Recipe.read().stages[0], steps=1, warmup=0, decay=0)
    recipe = replace(Recipe.read(), batch=2, evaluate_every=1, questions=1, stages=[stage])
    model = MossVLLMHeadModel.from_pretrained(CHECKPOINT, dtype=torch.float32)
    trainer = trainer_of(recipe, stage, model, MossVLProcessor.from_pretrained(CHECKPOINT), tmp_path)
    trainer.train()
    shares = [entry for entry in trainer.state.log_history if "eval_right" in entry]
    assert len(shares) == 1 and shares[0]["step"] == 1
    assert {f"eval_{task}" for task in TASKS} <= shares[0].keys()
    assert shares[0]["eval_right"] > 0.8


def test_training_goes_on_exactly_where_it_stopped(tmp_path):
    stage = replace(Recipe.read().stages[0], steps=3, warmup=1, decay=1)
    recipe = replace(Recipe.read(), batch=2, evaluate_every=2, questions=1, stages=[stage])
    assert train_stage(recipe, 0, tmp_path / "whole", None)
    assert not train_stage(recipe, 0, tmp_path / "parts", 1e-9)
    assert not (tmp_path / "parts" / stage.name / "model").exists()
    assert train_stage(recipe, 0, tmp_path / "parts", None)
    folders = [tmp_path / name / stage.name / "model" for name in ("whole", "parts")]
    whole, parts = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    start = untrained(stage.seed).state_dict()
    assert any(not torch.equal(whole[name], start[name]) for name in whole)


def test_the_second_edition_goes_on_from_the_first_and_is_trained_in_short_runs(tmp_path):
    recipe = Recipe.read(RECIPE.with_name("second.toml"))
    for stage in recipe.stages:
        assert all(set(single_tasks(tasks)) <= {*tasks_of(SECOND), *STREAMS} for _, tasks in stage.phases)
    cheap = {"read": 1.0, "unknown": 1.0, "json_describe": 1.0}
    (stage,) = recipe.stages
    stage = replace(stage, steps=2, warmup=0, decay=1, phases=[(0, cheap)])
    recipe = replace(recipe, batch=4, evaluate_every=10, questions=1, stages=[stage])
    assert not train_stage(recipe, 0, tmp_path, 1e-9)
    assert train_stage(recipe, 0, tmp_path, None)
    first, last = (
        load_file(folder / "model.safetensors") for folder in (CHECKPOINT, tmp_path / "everything" / "model")
    )
    changes = [(last[name] - first[name].float()).abs().max() for name in first]
    assert 0 < max(changes) < 0.1
    sizes = processor_for(recipe).image_processor.size
    assert sizes["longest_edge"] > MossVLProcessor.from_pretrained(CHECKPOINT).image_processor.size["longest_edge"]
