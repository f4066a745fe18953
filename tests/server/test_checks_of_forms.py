"""Forms of answers may take long to check."""

import asyncio
import gc
import threading

import httpx
from running import PATIENCE

import mossvl
from mossvl.forms import grammar
from mossvl.server.app import create_app
from mossvl.server.config import ServerConfig
from mossvl.server.service import Service
from mossvl.tools import constraint

PATH, MANY = "/v1/chat/completions", 60
ASKED = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
FORMS = [
    {"guided_regex": "a"},
    {"response_format": {"type": "json_object"}},
    {"tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "required"},
]


def test_a_request_without_a_form_waits_for_no_check_of_a_form(monkeypatch):
    checking, over = threading.Event(), threading.Event()

    def problem_of(_):
        checking.set()
        over.wait(PATIENCE)
        return "it was checked"

    async def answers(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None) as client:
            checked = [asyncio.create_task(client.post(PATH, json=ASKED | FORMS[n % 3])) for n in range(MANY)]
            await asyncio.to_thread(checking.wait, PATIENCE)
            free = await client.post(PATH, json=ASKED)
            none_is_checked = not any(task.done() for task in checked)
            over.set()
            return free, none_is_checked, await asyncio.gather(*checked)

    service = Service(ServerConfig(decoders=1), lambda: mossvl.MossVL(device="cpu"), "mossvl-tiny")
    try:
        service.start()
        for module in (grammar, constraint):
            monkeypatch.setattr(module, "problem_of", problem_of)
        free, none_is_checked, checked = asyncio.run(answers(create_app(service)))
    finally:
        service.close()
        gc.unfreeze()
    assert free.status_code == 200 and none_is_checked
    assert {answer.status_code for answer in checked} == {400}
    assert all("it was checked" in answer.json()["error"]["message"] for answer in checked)
