"""A query says how its conversation becomes a prompt."""

import copy

import pytest

from mossvl import SamplingParams
from mossvl.errors import OptionError, PromptError
from mossvl.queries.query import Query

FEW = SamplingParams(max_new_tokens=3)
TALK = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "It is red "}]
MODED = (
    "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'][0]['text'] }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant{%- if thinking -%}[{{ thinking }}]{%- endif -%}{%- endif -%}"
    "{%- if broken -%}{{ broken.a.b }}{%- endif -%}"
)


def prompt(llm, **query):
    return llm.generate(query, FEW, raise_on_error=True).input_text


def test_an_answer_continues_the_final_message(llm):
    before = prompt(llm, messages=TALK[:1])
    assert prompt(llm, messages=TALK, continue_final_message=True) == before + "It is red "
    odd = [TALK[0], {"role": "assistant", "content": " It is<|im_end|> red\n\n"}]
    assert prompt(llm, messages=odd, continue_final_message=True) == before + " It is red\n\n"
    assert prompt(llm, messages=TALK) == before + "It is red <|im_end|>\n<|im_start|>assistant\n"
    assert prompt(llm, messages=TALK, add_generation_prompt=False) == before + "It is red <|im_end|>\n"
    parts = [TALK[0], {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]
    assert prompt(llm, messages=parts, continue_final_message=True, add_generation_prompt=False) == before + "It is"


def test_a_session_has_the_message_that_was_continued_as_one():
    query = Query.from_dict({"messages": TALK, "continue_final_message": True})
    assert query.session_after([], "and round.") == [TALK[0], {"role": "assistant", "content": "It is red and round."}]


def test_a_template_that_trims_texts_trims_the_final_message(make, processor):
    own = copy.copy(processor)
    own.chat_template = MODED.replace("['text']", "['text'] | trim")
    llm = make()
    llm.processor = own
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "It is red \n"}]}]
    assert prompt(llm, messages=parts, continue_final_message=True).endswith("assistant\nIt is red")


@pytest.fixture
def moded(make, processor):
    own = copy.copy(processor)
    own.chat_template = MODED
    llm = make()
    llm.processor = own
    return llm


def test_variables_reach_the_chat_template_without_special_tokens(moded):
    bare = prompt(moded, prompt="Hi.")
    assert bare.endswith("<|im_start|>assistant")
    assert prompt(moded, prompt="Hi.", chat_template_kwargs={"thinking": "deep<|im_end|>"}) == bare + "[deep]"
    off = {"thinking": False, "enable_thinking": False, "other": None}
    assert prompt(moded, prompt="Hi.", chat_template_kwargs=off) == bare


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        ({"chat_template_kwargs": {"thinkin": True}}, OptionError, "'thinkin'; did you mean 'thinking'"),
        ({"chat_template_kwargs": {"messages": []}}, OptionError, "'messages' cannot be set there"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, OptionError, "give it beside them"),
        ({"chat_template_kwargs": {"eos_token": "a"}}, OptionError, "unknown variable of this chat template"),
        (
            {"chat_template_kwargs": {"nonsense": 1}},
            OptionError,
            "^chat_template_kwargs: unknown variable of this chat template 'nonsense'; known: broken, thinking$",
        ),
        ({"chat_template_kwargs": {"broken": 1}}, OptionError, "chat_template_kwargs: the chat template fails"),
        ({"chat_template_kwargs": "thinking"}, OptionError, "must be a dict"),
        ({"continue_final_message": True, "add_generation_prompt": True}, OptionError, "exclude each other"),
        ({"continue_final_message": "yes"}, OptionError, "must be true or false"),
        ({"prompt": "  ", "continue_final_message": True}, PromptError, "does not end with a text"),
    ],
)
def test_what_no_prompt_can_be_made_of_is_refused(moded, query, kind, message):
    with pytest.raises(kind, match=message):
        prompt(moded, **{"prompt": "Hi.", **query})


def test_a_variable_for_a_template_that_has_none_is_to_be_left_out(llm):
    with pytest.raises(OptionError, match=r"'nonsense'; there is none; leave it out$") as refused:
        prompt(llm, prompt="Hi.", chat_template_kwargs={"nonsense": 1})
    assert refused.value.option == "chat_template_kwargs"
