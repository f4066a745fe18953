"""The documentation's Python runs, on the golden checkpoint."""

import json
import re
import shutil
from pathlib import Path

import pytest
from golden_cases import CHECKPOINT

import mossvl

ROOT = Path(__file__).parent.parent
QUERIES = [{"prompt": "Describe", "images": ["examples/shapes.png"], "generate_kwargs": {"max_new_tokens": 4}}]


@pytest.mark.parametrize("page", ["README.md", "docs/engine.md", "docs/model.md", "docs/offline.md"])
def test_snippets_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    checkpoint = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    every_token = {"eos_token_id": list(range(512))}  # ends an answer, so that answers are short
    (checkpoint / "generation_config.json").write_text(json.dumps(every_token))
    model, processor = mossvl.load(checkpoint, device="cpu")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    names = {"model": model, "processor": processor, "queries": QUERIES}
    assert blocks
    for block in blocks:
        code = block.replace("path/to/MOSS-VL-Instruct-0708", str(checkpoint))
        if code.startswith("{"):
            compile(code, page, "eval")  # a query, shown as data
        else:
            exec("import queue, threading\n" + code, names)
