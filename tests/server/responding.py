"""Questions for `/v1/responses`, and OpenAI's client that asks them."""

import base64
from pathlib import Path

import openai
from running import PATIENCE

EXAMPLES = Path(__file__).parents[2] / "examples"
WRITTEN = {"type": "input_text", "text": "What is written there?"}
LONG = "Describe it in many words."


def data_url(file: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode((EXAMPLES / file).read_bytes()).decode()}"


SIGN = {"type": "input_image", "image_url": data_url("sign.png", "image/png"), "detail": "auto"}
CLIP = data_url("clip.mp4", "video/mp4")


def client_of(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0)


def respond(client, given, **options):
    return client.responses.create(model="mossvl-tiny", input=given, **options)


def user(*parts):
    return [{"role": "user", "content": list(parts)}]
