"""Forms in all their languages, and schemas whose objects are closed."""

import json
import re
from random import Random

import pytest

from mossvl import SamplingParams
from mossvl.errors import OptionError
from mossvl.forms.closing import closed

A, B = {"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "integer"}}}
SHUT = {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, A | SHUT),
        ({"type": "object"}, {"type": "object"}),
        (A | {"additionalProperties": True}, A | {"additionalProperties": True}),
        (A | {"additionalProperties": B}, A | {"additionalProperties": B | SHUT}),
        ({"patternProperties": {"^x": A}}, {"patternProperties": {"^x": A | SHUT}} | SHUT),
        ({"items": A, "prefixItems": [B]}, {"items": A | SHUT, "prefixItems": [B | SHUT]}),
        ({"anyOf": [A, B]}, {"anyOf": [A | SHUT, B | SHUT]}),
        ({"allOf": [A]}, {"allOf": [A | SHUT]}),
        ({"allOf": [A, B]}, {"allOf": [A, B]}),
        (A | {"anyOf": [B]}, A | {"anyOf": [B]}),
        (A | {"anyOf": [{"required": ["a"]}, {}]}, A | {"anyOf": [{"required": ["a"]}, {}]} | SHUT),
        ({"$ref": "#/$defs/A", "$defs": {"A": A}}, {"$ref": "#/$defs/A", "$defs": {"A": A | SHUT}}),
        (
            {"allOf": [{"$ref": "#/$defs/A"}, B], "$defs": {"A": {"$ref": "#/$defs/B"}, "B": A, "C": A}},
            {"allOf": [{"$ref": "#/$defs/A"}, B], "$defs": {"A": {"$ref": "#/$defs/B"}, "B": A, "C": A | SHUT}},
        ),
        ({"properties": {"properties": A}}, {"properties": {"properties": A | SHUT}} | SHUT),
        ({"const": A, "default": A, "enum": [A]}, {"const": A, "default": A, "enum": [A]}),
        (True, True),
    ],
)
def test_objects_that_list_properties_are_closed_unless_the_schema_opens_them(schema, expected):
    before = json.dumps(schema)
    assert closed(schema) == expected
    assert json.dumps(schema) == before


def test_a_schema_that_is_part_of_another_is_found_through_any_number_of_references():
    links = {f"link {place}": {"$ref": f"#/$defs/link {place - 1}"} for place in range(1, 10_000)}
    schema = {"$defs": {"link 0": A, "other": A} | links, "properties": {"a": {"$ref": "#/$defs/link 9999"} | B}}
    found = closed(schema)
    assert found["$defs"]["link 0"] == A
    assert found["$defs"]["other"] == A | SHUT


def answers(llm, seeds=6, **form):
    return [
        llm.generate("Say it.", SamplingParams(**form, temperature=1.5, seed=seed, max_new_tokens=120)).text
        for seed in range(seeds)
    ]


def test_no_answer_has_a_property_that_is_not_listed(llm):
    flag = {"type": "boolean"}
    schema = {"type": "object", "properties": {"a": flag, "b": {"type": "object", "properties": {"c": flag}}}}
    for said in map(json.loads, answers(llm, json_schema=schema)):
        assert said.keys() <= {"a", "b"} and said.get("b", {}).keys() <= {"c"}


def test_an_answer_is_one_of_the_choices_whatever_characters_they_have(llm):
    rng = Random(3)
    choices = ["".join(rng.choices("ab.*+?()[]{}|^$\\#&-~ \n\"'é/", k=6)) for _ in range(12)]
    assert set(answers(llm, choice=choices)) <= set(choices)
    assert answers(llm, choice="yes", seeds=1) == ["yes"]


@pytest.mark.parametrize(
    ("rules", "pattern"),
    [
        ('start: word ("," word)*\nword: /[a-c]{2}/', "[a-c]{2}(,[a-c]{2})*"),
        ('root ::= word ("," word)*\nword ::= [a-c] [a-c]', "[a-c]{2}(,[a-c]{2})*"),
        ('word ::= "x" | "yy"\nroot ::= (word "\\n"){1,2}', "((x|yy)\n){1,2}"),
        ('# of an LLM\nroot ::= "-"? [0-9]+ # a number', "-?[0-9]+"),
        ('?start: sum\nsum: NUMBER "+" NUMBER\nNUMBER: /[0-9]{1,3}/', r"[0-9]{1,3}\+[0-9]{1,3}"),
    ],
)
def test_an_answer_is_of_a_grammar_in_either_syntax(llm, rules, pattern):
    for said in answers(llm, grammar=rules, seeds=3):
        assert re.fullmatch(pattern, said) or len(said) > 60


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grammar": "start: other"}, 'cannot be used: unknown name: "other"'),
        ({"grammar": "root ::= other"}, "'other' not found"),
        ({"grammar": 'answer ::= "a"'}, "No 'root' rule"),
        ({"grammar": "root ::= ("}, "Expected"),
        ({"grammar": "root ::= " + "(" * 20_000}, "nested too deeply"),
        ({"grammar": "".join(f"r{i} ::= [a]\n" for i in range(1001))}, "1001 rules"),
        ({"grammar": ""}, "Empty grammar"),
        ({"grammar": 7}, "must be a text"),
        ({"choice": []}, "nothing to choose from"),
        ({"choice": ["a", ""]}, "none of them empty"),
        ({"choice": ["a"], "regex": "a"}, "exclude each other"),
    ],
)
def test_what_is_no_form_in_its_language_is_refused(given, message):
    with pytest.raises(OptionError, match=message):
        SamplingParams(**given)
