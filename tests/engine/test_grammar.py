"""Answers keep the form that was asked for, and change nothing for their neighbours."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mossvl import SamplingParams
from mossvl.errors import OptionError

SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["star", "ring"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}
FORMS = st.recursive(
    st.sampled_from(["a", "[0-9]", "(left|right)", "é", r"\."]),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("({}|{})".format, inner, inner),
        st.builds("({})?".format, inner),
    ),
    max_leaves=5,
)


@given(form=FORMS, seed=st.integers(0, 99))
@settings(max_examples=15)
def test_whole_answers_match_a_regular_expression(loaded_llm, form, seed):
    params = SamplingParams(regex=form, temperature=1.0, seed=seed, max_new_tokens=60)
    result = loaded_llm.generate("Say it.", params)
    assert result.finish_reason == "stop"
    assert re.fullmatch(form, result.text)


@pytest.fixture(scope="module")
def loaded_llm(model, processor):
    import mossvl

    with mossvl.MossVL(model, processor, memory=1 << 24) as llm:
        yield llm


@pytest.mark.parametrize("schema", [SCHEMA, json.dumps(SCHEMA)])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_json_of_a_schema(llm, schema, temperature):
    params = SamplingParams(json_schema=schema, temperature=temperature, n=3, max_new_tokens=200)
    for answer in llm.generate("Say it.", params).answers:
        said = json.loads(answer.text)
        assert said.keys() == {"kind", "count"} and said["kind"] in ("star", "ring") and 0 <= said["count"] <= 99


def test_neighbours_are_answered_as_alone(llm):
    free = SamplingParams(max_new_tokens=12)
    formed = SamplingParams(regex="[a-z]{20}", repetition_penalty=1.3, max_new_tokens=40)
    queries = ["One?", "Two?", "Three?"]
    together = llm.generate(queries, [free, formed, free])
    alone = [llm.generate(query, params) for query, params in zip(queries, [free, formed, free], strict=True)]
    assert [one.text for one in together] == [one.text for one in alone]
    assert re.fullmatch("[a-z]{20}", together[1].text)


def test_an_answer_that_is_too_long_for_its_room_is_cut(llm):
    result = llm.generate("Say it.", SamplingParams(regex="[a-z]{50}", max_new_tokens=5))
    assert result.finish_reason == "length" and re.fullmatch("[a-z]+", result.text)


def test_a_query_that_is_preempted_keeps_its_form(make):
    llm = make(memory=1 << 19, max_batch=4, prefix_cache=False)
    params = SamplingParams(regex="[0-9]{60}", temperature=1.0, max_new_tokens=100)
    results = llm.generate([f"Number {number}?" for number in range(6)], params)
    assert all(re.fullmatch("[0-9]{60}", result.text) for result in results)
    assert llm.engine.scheduler.preemptions


def test_queries_may_have_a_form(model, processor):
    query = {"prompt": "Say it.", "generate_kwargs": {"json_schema": SCHEMA, "max_new_tokens": 200}}
    result = model.offline_batch_generate(processor, [query])
    assert json.loads(result["results"][0]["text"])["kind"] in ("star", "ring")
    model.close_engine()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"regex": "("}, "regex='\\('"),
        ({"regex": 5}, "must be a text"),
        ({"json_schema": "{"}, "not JSON"),
        ({"json_schema": "[1]"}, "must be a dict"),
        ({"json_schema": {"type": "nothing"}}, "json_schema="),
        ({"json_schema": {}, "regex": "a"}, "exclude each other"),
        ({"regex": "a", "ignore_eos": True}, "exclude each other"),
    ],
)
def test_what_is_no_form_is_refused(given, message):
    with pytest.raises(OptionError, match=message):
        SamplingParams(**given)
