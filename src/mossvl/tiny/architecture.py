"""The architecture of mossvl-tiny: the published architecture in small sizes, and a tokenizer of its own.

`python -m mossvl.tiny.architecture FOLDER README.md docs/*.md` writes all of a checkpoint but its weights.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import typer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mossvl.model.configuration import MossVLConfig
from mossvl.processing.image_processor import MossVLImageProcessor
from mossvl.processing.processor import MossVLProcessor
from mossvl.processing.video_processor import MossVLVideoProcessor
from mossvl.synthetic.editions import FIRST, Edition
from mossvl.synthetic.tasks import TASKS
from mossvl.synthetic.world import Split, World

VOCABULARY = 2048
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<|time_start|>", "<|time_end|>", "<|silence|>", "<|response|>"),
)
"""The special tokens of the published checkpoints."""
PIECES = r"\p{N}| ?\p{Lu}(?!\p{Ll})| ?\p{L}?\p{Ll}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Pre-tokenizer pattern. Digits, and capitals that begin no word, are single tokens, so that the model spells what it
reads."""
CHAT_TEMPLATE = (
    "{%- set untold = tools -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + ('user' if message['role'] == 'tool' else message['role']) + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}<|image|>{%- elif part['type'] == 'video' -%}<|video|>"
    "{%- else -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""The model knows no tools: it is told of none, since a description only confuses it, and reads a result as a turn."""
LEAST_PIXELS = 64 * 64
"""Smallest area of an image or frame; smaller media are upscaled."""


def tokenizer_from(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train byte-level BPE of VOCABULARY tokens on texts; the special tokens come last.

    Raises:
        ValueError: the texts give fewer tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    size = VOCABULARY - len(SPECIAL_TOKENS)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet))
    if tokenizer.get_vocab_size() != size:
        raise ValueError(f"the texts give {tokenizer.get_vocab_size()} tokens, but {size} are needed; give more texts")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def processor_of(tokenizer: PreTrainedTokenizerFast, edition: Edition = FIRST) -> MossVLProcessor:
    """Return a processor that downscales larger media than those of an edition."""
    most = edition.seen
    size = {"shortest_edge": LEAST_PIXELS, "longest_edge": most}
    return MossVLProcessor(
        MossVLImageProcessor(size=size, multi_image_max_pixels=16 * most),
        tokenizer,
        MossVLVideoProcessor(size=size, video_max_pixels=edition.room, max_frames=64),
        chat_template=CHAT_TEMPLATE,
    )


def configuration(tokenizer: PreTrainedTokenizerFast) -> MossVLConfig:
    """Return the configuration of 8.0 million parameters: 3.8 in vision and merger, 4.2 in the language model."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    return MossVLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 192,
            "intermediate_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "cross_attention_layers": [2, 6, 10],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 6,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_heads": 4,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [1, 3],
            "out_hidden_size": 192,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def texts(samples: int) -> Iterator[str]:
    """Yield questions and answers of the training split, `samples` samples of each task."""
    for task, make in TASKS.items():
        for number in range(samples):
            for turn in make(World(Split.TRAIN, f"texts {task} {number}")).turns:
                yield f"{turn.question}\n{turn.answer}"


def main(folder: Path, files: list[Path], samples: int = 1000) -> None:
    """Train a tokenizer on questions, answers and files; write tokenizer, processor and configuration."""
    tokenizer = tokenizer_from([*texts(samples), *(file.read_text() for file in files)])
    processor_of(tokenizer).save_pretrained(folder)
    configuration(tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    typer.run(main)
