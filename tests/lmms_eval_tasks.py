"""Tasks of lmms-eval about the procedural world, written into a folder for `--include_path`."""

import json
from pathlib import Path

from mossvl.synthetic.world import Split
from mossvl.tiny.evaluate import write_conversation

SAMPLES = [(task, number) for number in (1, 2) for task in ("read", "colour", "when", "which_picture", "matching")][:9]
"""Pictures, clips, several pictures, pictures with clips; an odd number, so that ranks have unequal parts."""
TASK = """
task: world_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/documents.jsonl}}}}
test_split: test
output_type: {output}
generation_kwargs: {{max_new_tokens: 48}}
doc_to_visual: !function documents.visuals
doc_to_text: !function documents.text
doc_to_target: "{{{{answer}}}}"
{questions}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""
QUESTIONS = {
    "messages": "doc_to_messages: !function documents.messages",
    "visuals": "",
}
FUNCTIONS = """
import json
from PIL import Image


def parts(doc):
    return json.loads(doc["parts"])


def messages(doc):
    return [{"role": "user", "content": parts(doc)}]


def visuals(doc):
    given = [part for part in parts(doc) if part["type"] != "text"]
    return [Image.open(one["url"]).convert("RGB") if one["type"] == "image" else one["url"] for one in given]


def text(doc):
    return "".join(part["text"] for part in parts(doc) if part["type"] == "text")
"""


def write_tasks(folder: Path) -> list[dict]:
    """Write media, documents and tasks; return the documents, with `parts` as in lmms-eval's messages."""
    documents = []
    for named in SAMPLES:
        sample = write_conversation(folder, Split.TEST, False, named)
        parts = [_part(part) for part in sample.questions[0]["content"]]
        documents.append({"parts": json.dumps(parts), "answer": sample.answers[0]})
    (folder / "documents.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in documents))
    (folder / "documents.py").write_text(FUNCTIONS)
    for kind, questions in QUESTIONS.items():
        task = TASK.format(kind=kind, folder=folder, output="generate_until", questions=questions)
        (folder / f"{kind}.yaml").write_text(task)
    return [{**one, "parts": json.loads(one["parts"])} for one in documents]


def _part(part: str | dict) -> dict:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": part["type"], ("text" if part["type"] == "text" else "url"): part[part["type"]]}
