"""What users of transformers expect of any model."""

import copy
import json

import pytest
import torch
from golden_cases import CASES, CHECKPOINT, LABELS
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoProcessor,
)

import mossvl
from mossvl.errors import CheckpointError, OptionError


@pytest.fixture
def video(reference):
    return {
        "input_ids": torch.tensor([CASES["video"]["input_ids"]]),
        "pixel_values": reference["video.pixel_values"].float() / 255 * 2 - 1,
        "grid_thw": torch.tensor(CASES["video"]["grid_thw"]),
    }


@pytest.fixture
def trained(model):
    """A copy that a test may change."""
    return copy.deepcopy(model)


@pytest.mark.parametrize("trust", [True, False])
def test_auto_classes_load_this_package_and_no_remote_code(trust):
    # Only after `import mossvl` do these two exist without torchvision.
    from transformers import AutoImageProcessor, AutoVideoProcessor

    kwargs = {"trust_remote_code": trust}
    assert type(AutoConfig.from_pretrained(CHECKPOINT, **kwargs)) is mossvl.MossVLConfig
    assert type(AutoProcessor.from_pretrained(CHECKPOINT, **kwargs)) is mossvl.MossVLProcessor
    assert type(AutoImageProcessor.from_pretrained(CHECKPOINT, **kwargs)) is mossvl.MossVLImageProcessor
    assert type(AutoVideoProcessor.from_pretrained(CHECKPOINT, **kwargs)) is mossvl.MossVLVideoProcessor
    for auto in (AutoModelForCausalLM, AutoModel):
        assert type(auto.from_pretrained(CHECKPOINT, **kwargs)) is mossvl.MossVLForConditionalGeneration


def test_the_published_loading_snippet():
    processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=True, frame_extract_num_threads=1)
    model = AutoModelForCausalLM.from_pretrained(
        CHECKPOINT,
        trust_remote_code=True,
        device_map="auto",
        torch_dtype=torch.bfloat16,
        attn_implementation="flash_attention_2",
    )
    assert processor.video_processor.num_extract_threads == 1
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_device_map_needs_no_accelerate(device_map, model, video, monkeypatch):
    monkeypatch.setattr("mossvl.checkpoints.strict.is_accelerate_available", lambda: False)
    loaded = AutoModelForCausalLM.from_pretrained(CHECKPOINT, device_map=device_map, dtype=torch.float32)
    if loaded.device.type == "cpu":
        assert torch.equal(loaded(**video).logits, model(**video).logits)


def test_several_devices_without_accelerate_are_refused(monkeypatch):
    monkeypatch.setattr("mossvl.checkpoints.strict.is_accelerate_available", lambda: False)
    with pytest.raises(OptionError, match="install accelerate"):
        AutoModelForCausalLM.from_pretrained(CHECKPOINT, device_map={"model": "cpu", "lm_head": "cuda"})


@pytest.mark.parametrize("shard", ["50GB", "400KB"])
def test_saving_and_loading_gives_the_same_model(shard, model, video, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "400KB")
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert {name: p.shape for name, p in again.state_dict().items()} == {
        name: p.shape for name, p in load_file(CHECKPOINT / "model.safetensors").items()
    }
    with torch.no_grad():
        assert torch.equal(again(**video).logits, model(**video).logits)


def test_saving_and_loading_gives_the_same_processor(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((CHECKPOINT / "config.json").read_text())
    again = AutoProcessor.from_pretrained(tmp_path)
    text, medium = "<|image|>Look", CASES["one_image"]["query"]["images"]
    first, second = processor(text, medium), again(text, medium)
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    assert torch.equal(first["input_ids"], second["input_ids"])
    message = [{"role": "user", "content": "x"}]
    assert again.render(message) == processor.render(message)
    assert again.video_processor.to_dict() == processor.video_processor.to_dict()


def test_both_spellings_of_rope_settings_load(tmp_path):
    config = json.loads((CHECKPOINT / "config.json").read_text())
    text = config["text_config"]
    rope = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}
    text["rope_parameters"] = rope
    new = mossvl.MossVLConfig(**config)
    old = AutoConfig.from_pretrained(CHECKPOINT)
    assert new.text_config.rope_parameters == old.text_config.rope_parameters
    assert old.text_config.rope_parameters["mrope_section"] == [6, 5, 5]


def test_default_configuration_is_the_published_one():
    config = mossvl.MossVLConfig()
    with torch.device("meta"):
        model = mossvl.MossVLForConditionalGeneration(config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(11.34e9, rel=1e-3)
    assert config.text_config.rope_parameters["mrope_section"] == [24, 20, 20]


def test_beam_search_is_at_least_as_likely_as_greedy(model, video):
    scores = []
    for beams in (1, 3):
        out = model.generate(
            **video, num_beams=beams, do_sample=False, max_new_tokens=6, min_new_tokens=6, length_penalty=0.0
        )
        with torch.no_grad():
            logits = model(input_ids=out, pixel_values=video["pixel_values"], grid_thw=video["grid_thw"]).logits
        new = out[0, video["input_ids"].shape[1] :]
        scores.append(logits[0, -7:-1].log_softmax(-1).gather(1, new[:, None]).sum().item())
    assert scores[1] >= scores[0] - 1e-4


def test_beams_and_returned_sequences_encode_the_media_once(model, video, monkeypatch):
    calls = []
    encode = type(model.model).encode_vision
    monkeypatch.setattr(type(model.model), "encode_vision", lambda *args: calls.append(1) or encode(*args))
    out = model.generate(**video, num_beams=4, num_return_sequences=3, do_sample=False, max_new_tokens=5)
    assert out.shape[0] == 3
    assert len({tuple(row) for row in out.tolist()}) == 3
    assert len(calls) == 1


def test_greedy_answers_do_not_depend_on_the_cache(model, video):
    kwargs = {"do_sample": False, "max_new_tokens": 6}
    assert torch.equal(model.generate(**video, **kwargs), model.generate(**video, **kwargs, use_cache=False))


def test_sampling_is_repeatable_and_varies(model, video):
    def sample(seed):
        torch.manual_seed(seed)
        return model.generate(**video, do_sample=True, num_return_sequences=2, max_new_tokens=8, top_k=0).tolist()

    assert sample(1) == sample(1) != sample(2)
    assert sample(1)[0] != sample(1)[1]


def test_texts_end_an_answer(model, processor, video):
    prompt = video["input_ids"].shape[1]
    whole = model.generate(**video, do_sample=False, max_new_tokens=8)[0, prompt:]
    stop = processor.tokenizer.decode(whole[1:2])  # the one after it is part of a character
    stopped = model.generate(
        **video, do_sample=False, max_new_tokens=8, stop_strings=[stop], tokenizer=processor.tokenizer
    )[0, prompt:]
    assert stopped.tolist() == whole[: len(stopped)].tolist()
    assert len(stopped) <= 2
    assert stop in processor.tokenizer.decode(stopped)


@pytest.mark.parametrize(
    "option",
    [
        {"prompt_lookup_num_tokens": 3},
        {"assistant_early_exit": 2},
        {"prefill_chunk_size": 4},
        {"cache_implementation": "static"},
    ],
)
def test_ways_of_generating_that_do_not_exist_are_refused_by_name(option, model, video):
    with pytest.raises(OptionError, match=f"{next(iter(option))}.* is not supported; leave it out"):
        model.generate(**video, max_new_tokens=2, **option)


def test_a_draft_model_is_refused_by_name(model, video):
    with pytest.raises(OptionError, match="assistant_model is not supported"):
        model.generate(**video, max_new_tokens=2, assistant_model=model)


def test_a_cache_is_known_by_both_of_its_names(model, video):
    ids = torch.tensor([[5]])
    logits = []
    for name in ("cache", "past_key_values"):
        cache = mossvl.MossVLCache(model.config.text_config)
        with torch.no_grad():
            model(**video, **{name: cache})
            logits.append(model(input_ids=ids, **{name: cache}).logits)
        assert cache.columns == video["input_ids"].shape[1] + 1
    assert torch.equal(*logits)


def test_embeddings_may_be_given_instead_of_tokens(model, video, reference):
    expected = model(**video).logits
    embeds = model.get_input_embeddings()(video["input_ids"])
    media = {name: video[name] for name in ("pixel_values", "grid_thw")}
    mask = reference["video.cross_attention_mask"].bool()
    actual = model(inputs_embeds=embeds, cross_attention_mask=mask, **media).logits
    assert torch.equal(actual, expected)


def test_generating_from_embeddings_gives_what_tokens_do(model, video, reference):
    embeds = model.get_input_embeddings()(video["input_ids"])
    media = {name: video[name] for name in ("pixel_values", "grid_thw")}
    mask = reference["video.cross_attention_mask"].bool()
    kwargs = {"do_sample": False, "max_new_tokens": 5}
    new = model.generate(inputs_embeds=embeds, cross_attention_mask=mask, **media, **kwargs)
    assert new[0].tolist() == CASES["video"]["tokens"][:5]


def test_only_the_logits_asked_for_are_computed(model, video):
    logits = model(**video).logits
    torch.testing.assert_close(model(**video, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(**video, logits_to_keep=torch.tensor([3, 5])).logits, logits[:, [3, 5]])


def test_the_loss_is_of_the_columns_that_are_kept(model, video):
    labels = video["input_ids"]
    ignored = labels.clone()
    ignored[:, :-3] = -100  # the last 4 columns predict 3 tokens
    expected = model(**video, labels=ignored).loss
    for kept in (4, torch.arange(labels.shape[1] - 4, labels.shape[1])):
        torch.testing.assert_close(model(**video, labels=labels, logits_to_keep=kept).loss, expected)


def test_hidden_states_are_those_of_every_layer(model, video):
    out = model(**video, output_hidden_states=True)
    assert len(out.hidden_states) == model.config.text_config.num_hidden_layers + 1
    assert torch.equal(model.lm_head(out.hidden_states[-1]), out.logits)


def gradients(model, processor):
    case = LABELS[1]
    batch = processor(case["text"], case["images"], case["videos"], labels_spans=case["labels_spans"])
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_every_parameter_gets_a_gradient_and_checkpointing_does_not_change_it(trained, processor):
    trained.train()
    plain = gradients(trained, processor)
    assert plain.keys() == dict(trained.named_parameters()).keys()
    assert all(torch.isfinite(grad).all() for grad in plain.values())
    for reentrant in (False, True):
        trained.gradient_checkpointing_enable({"use_reentrant": reentrant})
        trained.enable_input_require_grads()
        checkpointed = gradients(trained, processor)
        for name, grad in plain.items():
            torch.testing.assert_close(checkpointed[name], grad, atol=1e-6, rtol=1e-5)


def test_lora_wraps_the_model_and_trains_a_step(trained, processor):
    peft = pytest.importorskip("peft")
    targets = ["q_proj", "v_proj", "linear_fc1"]
    wrapped = peft.get_peft_model(trained, peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    case = LABELS[0]
    batch = processor(case["text"], case["images"], case["videos"], labels_spans=case["labels_spans"])
    optimizer = torch.optim.AdamW((p for p in wrapped.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for _ in range(3):
        loss = wrapped(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_bfloat16_is_close_to_float32(model, video):
    low = copy.deepcopy(model).bfloat16()
    with torch.no_grad():
        exact, rounded = model(**video).logits, low(**video).logits.float()
    assert (rounded - exact).norm() / exact.norm() < 2e-2


def changed_checkpoint(folder, change):
    tensors = load_file(CHECKPOINT / "model.safetensors")
    change(tensors)
    for file in CHECKPOINT.iterdir():
        if file.name != "model.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.separator_token"), "missing: model.separator_token"),
        (lambda t: t.update({"model.extra": torch.zeros(3)}), "unexpected: model.extra"),
        (lambda t: t.update({"model.separator_token": torch.zeros(3)}), r"misshapen: model.separator_token is \[3\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(change, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        AutoModelForCausalLM.from_pretrained(changed_checkpoint(tmp_path, change))


def test_published_rotary_tables_are_ignored(tmp_path):
    names = ("model.language_model.rotary_emb.inv_freq", "model.visual.rotary_pos_emb.inv_freq")
    folder = changed_checkpoint(tmp_path, lambda t: t.update({name: torch.zeros(16) for name in names}))
    AutoModelForCausalLM.from_pretrained(folder)


def test_a_truncated_weights_file_is_refused(tmp_path):
    folder = changed_checkpoint(tmp_path, lambda t: None)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cut off"):
        mossvl.load(folder, device="cpu")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama"}, "model type 'llama'"),
        ({"auto_map": {"AutoModel": "modeling_x.X"}}, "only remote code"),
        ({}, "model type None"),
    ],
)
def test_another_kind_of_checkpoint_is_refused(config, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        mossvl.load(tmp_path, device="cpu")


def test_a_checkpoint_without_its_tokenizer_is_refused(tmp_path):
    folder = changed_checkpoint(tmp_path, lambda t: None)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        mossvl.load(folder, device="cpu")


def test_a_configuration_of_wrong_types_is_refused(tmp_path):
    folder = changed_checkpoint(tmp_path, lambda t: None)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = "six"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        mossvl.load(folder, device="cpu")


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        mossvl.load(tmp_path / "nothing", device="cpu")
