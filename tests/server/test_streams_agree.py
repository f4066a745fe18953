"""What a stream has told in pieces is the whole answer to the same request, for every API."""

import json
import random

import httpx
import pytest
from running import PATIENCE

TEXTS = ["Hello", "Describe it in many words.", "Was siehst du? Käse, 日本語, 😀", "count: 1 2 3", "What?\n\n- a\n- b"]
FUNCTION = {
    "name": "pick",
    "parameters": {
        "type": "object",
        "properties": {"what": {"enum": ["öl", "a\\b", '"x"', "😀"]}, "sure": {"type": "boolean"}},
        "required": ["what", "sure"],
        "additionalProperties": False,
    },
}
EMOJI = {"regex": "(😀|é|日|a){1,6}"}


def events_of(text):
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


class Chat:
    path, length = "/v1/chat/completions", "max_tokens"

    def body(self, text):
        return {"messages": [{"role": "user", "content": text}]}

    def calling(self):
        return {
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        }

    def stop(self, texts):
        return {"stop": texts}

    def form(self, form):
        return form

    def whole(self, answer):
        (choice,) = answer["choices"]
        message = choice["message"]
        calls = message.get("tool_calls") or [{"function": {"name": None, "arguments": ""}}]
        return message["content"] or "", *calls[0]["function"].values(), choice["finish_reason"]

    def streamed(self, events):
        text, name, arguments, reason = "", None, "", None
        for event in events:
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                reason = choice["finish_reason"] or reason
                for call in choice["delta"].get("tool_calls", ()):
                    name = call["function"].get("name", name)
                    arguments += call["function"]["arguments"]
        return text, name, arguments, reason


class Completions(Chat):
    path = "/v1/completions"

    def body(self, text):
        return {"prompt": f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"}

    calling = None

    def whole(self, answer):
        (choice,) = answer["choices"]
        return choice["text"], choice["finish_reason"]

    def streamed(self, events):
        choices = [choice for event in events for choice in event["choices"]]
        return "".join(choice["text"] for choice in choices), choices[-1]["finish_reason"]


class Responses(Chat):
    path, length = "/v1/responses", "max_output_tokens"

    def body(self, text):
        return {"input": text, "store": False, "include": ["message.output_text.logprobs"]}

    def calling(self):
        return {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required", "parallel_tool_calls": False}

    def form(self, form):
        return {"text": {"format": {"type": "regex", "pattern": form["regex"]}}}

    def whole(self, answer):
        return [self.told(item) for item in answer["output"]], answer["status"]

    @staticmethod
    def told(item):
        if item["type"] == "function_call":
            return item["name"], item["arguments"], item["status"]
        (part,) = item["content"]
        return part["text"], Responses.scored(part["logprobs"]), item["status"]

    @staticmethod
    def scored(drawn):
        """Tokens with log-probabilities, whose last digits depend on the batch."""
        return [one["token"] for one in drawn]

    def streamed(self, events):
        items, names, drawn = {}, {}, {}
        for event in events:
            kind, place = event["type"], event.get("output_index")
            if kind == "response.output_item.added":
                items[place], names[place] = "", event["item"].get("name")
            if kind.endswith(".delta"):
                items[place] += event["delta"]
                drawn[place] = drawn.get(place, []) + event.get("logprobs", [])
        last = events[-1]["response"]
        found = [
            (names[place], items[place], item["status"])
            if names[place]
            else (items[place], self.scored(drawn.get(place, [])), item["status"])
            for place, item in enumerate(last["output"])
        ]
        assert found == [self.told(item) for item in last["output"]]
        return found, last["status"]


class Messages(Chat):
    path = "/v1/messages"

    def body(self, text):
        return {"messages": [{"role": "user", "content": text}], "max_tokens": 50}

    def calling(self):
        tool = {"name": FUNCTION["name"], "input_schema": FUNCTION["parameters"]}
        return {"tools": [tool], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}

    def stop(self, texts):
        return {"stop_sequences": texts}

    form = None

    def whole(self, answer):
        blocks = [(block.get("name"), block.get("text", block.get("input"))) for block in answer["content"]]
        return blocks, answer["stop_reason"], answer["stop_sequence"]

    def streamed(self, events):
        names, texts, ending = [], [], {}
        for event in events:
            match event["type"]:
                case "content_block_start":
                    names.append(event["content_block"].get("name"))
                    texts.append("")
                case "content_block_delta":
                    texts[event["index"]] += "".join(
                        text for key, text in event["delta"].items() if key in ("text", "partial_json")
                    )
                case "message_delta":
                    ending = event["delta"]
        whole = ending["stop_reason"] != "max_tokens"
        blocks = [
            (name, text if name is None else json.loads(text) if whole else {})
            for name, text in zip(names, texts, strict=True)
        ]
        return blocks, ending["stop_reason"], ending["stop_sequence"]


def asked(api, seed):
    """A request of an API, drawn at random."""
    drawn = random.Random(seed)
    body = api.body(drawn.choice(TEXTS)) | {api.length: drawn.randint(1, 40), "seed": seed}
    body["temperature"] = drawn.choice([0, 0.7, 1.5, 2])
    kind = drawn.choice(["free", "free", "stop", "form", "call"])
    if kind == "stop":
        body |= api.stop(drawn.sample([" ", "e", ".", "0 s", "the", "a"], drawn.randint(1, 4)))
    if kind == "form" and api.form:
        body |= api.form(EMOJI)
    if kind == "call" and api.calling:
        body |= api.calling() | {api.length: 200}
    return body


@pytest.mark.parametrize("api", [Chat(), Completions(), Responses(), Messages()], ids=lambda api: api.path)
def test_the_pieces_of_a_stream_make_the_whole_answer(server, api):
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        for seed in range(24):
            body = asked(api, seed)
            whole = client.post(api.path, json=body)
            streamed = client.post(api.path, json=body | {"stream": True})
            assert whole.status_code == streamed.status_code == 200, whole.text
            assert api.streamed(events_of(streamed.text)) == api.whole(whole.json()), body
