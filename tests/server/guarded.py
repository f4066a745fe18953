"""An application behind a gate, asked without a server."""

import asyncio
from types import SimpleNamespace

import httpx

from mossvl.server.config import ServerConfig
from mossvl.server.metrics import Metrics
from mossvl.server.middleware import Gate

HERE = "http://127.0.0.1:8000"


class Application:
    """Reads a request's body, then says how long it was."""

    def __init__(self, route=None):
        self.asked, self.route = [], route

    async def __call__(self, scope, receive, send):
        self.asked.append(scope)
        if self.route:
            scope["route"] = SimpleNamespace(path=self.route)
        length, more = 0, True
        while more:
            message = await receive()
            length, more = length + len(message["body"]), message["more_body"]
        await self.answer(scope, send, str(length).encode())

    async def answer(self, scope, send, content):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})


class Guarded:
    """An application behind a gate, asked without a server."""

    def __init__(self, application=None, **config):
        self.metrics = Metrics()
        self.application = application or Application()
        self.gate = Gate(self.application, ServerConfig(**config), self.metrics)

    def ask(self, path="/v1/models", method="GET", root_path="", **given):
        """Ask; with `root_path`, as a program or Ray Serve does that has mounted the application there."""

        async def response():
            transport = httpx.ASGITransport(self.gate, root_path=root_path)
            async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                return await client.request(method, path, **given)

        return asyncio.run(response())

    def counted(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"mossvl_{name}_total", labels)

    def used(self):
        """Bytes of bodies that are kept, in memory and on the disk."""
        return self.gate._memory.used, self.gate._disk.used


def refusal(response, status, code):
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    return response.json()["error"]["message"]
