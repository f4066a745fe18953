"""Chat templates: what transformers would write, and nothing that hangs, fills the memory or raises anything else."""

import json
import resource
import shutil

import pytest
from golden_cases import CHECKPOINT
from transformers.utils.chat_template_utils import render_jinja_template

import mossvl
from mossvl.checkpoints import default
from mossvl.errors import CheckpointError, PromptError
from mossvl.processing.chat_template import check_template, render_chat

PUBLISHED = json.loads((CHECKPOINT / "chat_template.json").read_text())["chat_template"]
TINY = (default.CHECKPOINT / "chat_template.jinja").read_text()
CHATTY = """\
{%- macro said(content, first=false) %}
    {%- if content is string %}{{- content | trim }}
    {%- elif content is mapping %}{{- content | tojson(indent=2) }}
    {%- else %}
        {%- for part in content if part.type != 'audio' %}
            {%- if not loop.first %}{{ ' ' }}{% endif %}
            {%- if 'text' in part %}{{- part.text.strip('\\n') }}{% else %}{{- '<|' ~ part['type'] ~ '|>' }}{% endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- set ns = namespace(last=messages|length - 1, seen=[]) %}
{%- for message in messages[::-1] %}
    {%- set index = messages|length - 1 - loop.index0 %}
    {%- if message.role == "user" and ns.last >= index %}{%- set ns.last = index %}{% break %}{%- endif %}
{%- endfor %}
{{- bos_token or '' }}{{ 'last: %s\\n' % ns.last }}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('no ' + message.role) }}{% endif %}
    {%- set ns.seen = ns.seen + [message.role] %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- generation %}{{- said(message.content) }}{% endgeneration %}
    {%- set answer = message.content.split('</think>')[-1].lstrip() if message.content is string else '' %}
    {{- answer[:3].replace('A ', 'One ') ~ answer|upper|replace('A', 'b') ~ (answer|length) * 2 ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- set roles %}{{ ns.seen|unique|join(', ') }}{% endset %}
{{- roles }} {{ ns.seen|select('equalto', 'user')|list|length }} {{ {'b': [1, none, true], 'a': 'é<'}|tojson }}
{%- for name, value in {'x': 1, 'y': 2.5}.items() %} {{ name }}={{ value // 1 }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' -}}{%- endif %}
"""
MESSAGES = [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\nWhat\n{{ 7 }}?"}, {"type": "video"}]},
    {"role": "assistant", "content": "<think>Hm.</think> A cat."},
    {"role": "user", "content": "Sure?"},
]


@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[1:3], MESSAGES[3:]])
@pytest.mark.parametrize("source", [PUBLISHED, TINY, CHATTY], ids=["published", "tiny", "chatty"])
def test_a_template_writes_what_transformers_writes(source, messages):
    names = {"add_generation_prompt": True, "bos_token": None}
    (expected,), _ = render_jinja_template(conversations=[messages], chat_template=source, **names)
    assert render_chat(source, messages, tools=None, documents=None, **names) == expected
    assert "?" in expected


def test_long_conversations_have_a_budget_of_their_length():
    messages = [{"role": "user", "content": "x" * 50_000}, {"role": "assistant", "content": "y" * 50_000}] * 100
    assert render_chat(PUBLISHED, messages).count("x") == 5_000_000


MANY = "{% for a in range(99999) %}%s{% endfor %}"
GROWING = "{% set ns = namespace(x='ab', y=[1], z=9) %}{% for step in range(70) %}%s{% endfor %}"
HARMFUL = {
    "empty loops": MANY.replace("%s", MANY.replace("%s", MANY.replace("%s", ""))),
    "loops that pass all over": MANY.replace("%s", "{% for b in range(99999) if b < 0 %}{% endfor %}"),
    "loops of text": MANY.replace("%s", "x" * 9000),
    "a filter's loop": MANY.replace("%s", "{% set x = range(99999)|select('eq', -1)|list %}"),
    "a recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n < 70 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}",
    "macros for ever": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "sums": GROWING.replace("%s", "{% set ns.x = ns.x + ns.x %}"),
    "concatenations": GROWING.replace("%s", "{% set ns.x = ns.x ~ ns.x %}"),
    "joins": GROWING.replace("%s", "{% set ns.x = [ns.x, ns.x]|join %}"),
    "replacements": GROWING.replace("%s", "{% set ns.x = ns.x.replace('a', 'aa') %}"),
    "blocks": GROWING.replace("%s", "{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = x %}"),
    "lists": GROWING.replace("%s", "{% set ns.y = [ns.y, ns.y] %}") + "{{ ns.y }}",
    "tuples": GROWING.replace("%s", "{% set ns.y = (ns.y, ns.y) %}") + "{{ ns.y }}",
    "dicts": GROWING.replace("%s", "{% set ns.y = {1: ns.y, 2: ns.y} %}") + "{{ ns.y|tojson }}",
    "sums of lists": GROWING.replace("%s", "{% set ns.y = ns.y + ns.y %}"),
    "numbers": GROWING.replace("%s", "{% set ns.z = ns.z * ns.z %}"),
    "a power": "{{ 10 ** 10 ** 10 }}",
    "a product": "{{ 'x' * 10 ** 10 }}",
    "a product of a list": "{{ 10 ** 10 * [0] }}",
    "one wide concatenation": "{% set s = 'x' * 2000000 %}{{ " + " ~ ".join(["s"] * 2000) + " }}",
    "comparisons": "{% set a, b = 'x' * 900000, 'x' * 900000 %}" + MANY.replace("%s", "{{ a == b }}"),
    "searches": "{% set x = 'x' * 900000 %}" + MANY.replace("%s", "{{ 'y' in x }}"),
    "padding": "{{ 'x'.ljust(10 ** 10) }}",
    "a centre": "{{ 'x'|center(10 ** 10) }}",
    "zeros": "{{ '1'.zfill(10 ** 10) }}",
    "tabs": "{{ '\t'.expandtabs(10 ** 10) }}",
    "a format": "{{ '%10000000000d' % 1 }}",
    "a starred format": "{{ '%*d' % (10 ** 9, 1) }}",
    "another format": "{{ '{:10000000000}'.format(1) }}",
    "a date": "{{ strftime_now('%1000000000d') }}",
    "bytes": "{{ (1).to_bytes(10 ** 10) }}",
    "a join": "{{ ('x' * 100000).join(['a'] * 99999) }}",
    "a replacement": "{{ ('x' * 100000)|replace('x', 'y' * 100000) }}",
    "indented text": "{{ 'a\nb'|indent(10 ** 10) }}",
    "indented JSON": "{{ [1]|tojson(indent=10 ** 10) }}",
    "separated JSON": "{{ ([1] * 9999)|tojson(separators=('x' * 100000, ':')) }}",
    "batches": "{{ [1]|batch(10 ** 10, 'x')|list }}",
    "lorem ipsum": "{{ lipsum(10 ** 7) }}",
    "blocks in blocks": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call m() %}" * 15 + "x" * 1000 + "{% endcall %}" * 15,
    "a division": "{{ 1 / 0 }}",
    "a name": "{{ nothing() }}",
    "an attribute": "{{ messages.nothing.here }}",
    "a class": "{{ ''.__class__.__mro__ }}",
    "a file": "{% include '/etc/passwd' %}",
    "its syntax": "{% for %}",
    "brackets": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "its length": "x" * 10**6,
    "its type": ["x"],
    "a refusal": "{{ raise_exception('no') }}",
}  # fmt: skip


@pytest.mark.parametrize("source", HARMFUL.values(), ids=HARMFUL)
def test_a_template_that_does_harm_is_refused_and_takes_little_memory(source):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="chat template"):
        check_template(source)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


@pytest.mark.parametrize("source", [HARMFUL["empty loops"], "{{ 1 / 0 }}", "{% if %}", 5, [1]])
def test_no_checkpoint_with_such_a_template_is_loaded(source, tmp_path):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": source}))
    for load in (mossvl.load, mossvl.MossVLProcessor.from_pretrained):
        with pytest.raises(CheckpointError, match=r"checkpoint.* chat template"):
            load(folder)


def test_what_goes_wrong_later_is_an_error_of_its_query(processor, monkeypatch):
    monkeypatch.setattr(processor, "chat_template", "{% if messages|length > 1 %}{{ 1 / 0 }}{% endif %}yes")
    question = {"role": "user", "content": "Why?"}
    assert processor.render([question]) == "yes"
    with pytest.raises(CheckpointError, match="chat template fails: ZeroDivisionError"):
        processor.render([question, question])


def test_a_template_may_refuse_messages():
    with pytest.raises(PromptError, match="refuses these messages: no tool"):
        render_chat(CHATTY, [{"role": "tool", "content": "4"}])


def test_a_checkpoint_without_a_template_loads_and_renders_nothing(tmp_path):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    (folder / "chat_template.json").unlink()
    _, processor = mossvl.load(folder, device="cpu")
    with pytest.raises(CheckpointError, match="must be a text"):
        processor.render([{"role": "user", "content": "Why?"}])
