"""Blocks of an answer do not depend on when it is read: no server needed."""

import random

import pytest

from mossvl import SamplingParams
from mossvl.queries.handle import Handle
from mossvl.queries.results import TokenLogprobs
from mossvl.server.blocks import Blocks
from mossvl.server.drafts import DraftReader
from mossvl.tools.definitions import Tools

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOLS = Tools.of([{"name": "add"}])


def read(tokenizer, tokens, sizes):
    """Blocks of an answer that is read after so many tokens each time."""
    handle, blocks, changes = Handle(SamplingParams(logprobs=0), tokenizer), Blocks(TOOLS), []
    reader, (draft,) = DraftReader(handle), handle.drafts
    for place, token in enumerate(tokens):
        draft.tokens.append(token)
        draft.logprobs.append(TokenLogprobs(token, -float(place), []))
        if place in sizes:
            changes += blocks.add(reader.news())
    draft.finish_reason = "stop"
    handle.end(None)
    changes += blocks.add(reader.news())
    told = [(change.block.index, change.text, list(change.logprobs)) for change in changes if change.text]
    return [(block.text, block.call and block.call.name, block.logprobs) for block in blocks.blocks], told


@pytest.mark.parametrize(
    "text", ["Käse 😀 is here", f"{CALL} and text", f"a {CALL}\n{CALL} b", f"{CALL}", "a <tool_call> b"]
)
def test_blocks_have_the_same_texts_and_log_probabilities_whenever_they_are_read(processor, text):
    tokens = processor.tokenizer(text)["input_ids"]
    whole, _ = read(processor.tokenizer, tokens, ())
    drawn = random.Random(text)
    for _ in range(20):
        places = {drawn.randrange(len(tokens)) for _ in range(drawn.randint(1, len(tokens)))}
        blocks, _ = read(processor.tokenizer, tokens, places)
        assert blocks == whole


def test_text_after_a_call_has_the_log_probabilities_of_its_tokens(processor):
    before, after = processor.tokenizer(CALL)["input_ids"], processor.tokenizer(" and text")["input_ids"]
    blocks, told = read(processor.tokenizer, before + after, ())
    assert [(text, name) for text, name, _ in blocks] == [('{"a": 1}', "add"), (" and text", None)]
    assert [one.token for one in blocks[1][2]] == after and blocks[0][2] == []
    assert [text for index, text, _ in told if index] == [processor.tokenizer.decode([token]) for token in after]


@pytest.mark.parametrize("scored", [None, 0])
def test_each_part_of_an_answer_and_its_end_are_told_once(processor, scored):
    handle = Handle(SamplingParams(logprobs=scored, n=2), processor.tokenizer)
    readers = [DraftReader(handle, answer) for answer in (0, 1)]
    for token in processor.tokenizer("Hello")["input_ids"]:
        handle.drafts[1].tokens.append(token)
        handle.drafts[1].logprobs += [] if scored is None else [TokenLogprobs(token, -1.0, [])]
    handle.drafts[1].finish_reason = "length"
    news = readers[1].news()
    assert (news.text, len(news.drawn), news.reason) == ("Hello", len(handle.drafts[1].logprobs), "length")
    assert not readers[1].news().pieces and readers[1].news().reason is None
    assert not readers[0].news().pieces and readers[0].news().reason is None
