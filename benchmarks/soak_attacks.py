"""Hostile requests of a soak (soak.py), each with the ends that it may come to."""

import asyncio
import os
import resource
from typing import Any
from urllib.parse import quote

from soak_requests import (
    CLIP,
    FILES,
    FRAMES,
    SIGN,
    Send,
    Target,
    answered,
    asking,
    at,
    black,
    bomb,
    clip,
    data_url,
    form,
    formed,
    large,
    nested,
    outcome,
    posting,
    raw,
    say,
    shown,
    tiff,
)

Attacks = dict[str, tuple[Send, *tuple[str, ...]]]
"""By name: what sends a request, and the ends that are right."""
LONG: dict[str, Any] = {"ignore_eos": True, "max_tokens": 5000}
REQUEST, OPTION, MEDIUM, LATE = "400 invalid_request", "400 invalid_option", "400 invalid_media", "504 timeout"
BUSY = "503 overloaded"
"""Of a preview that comes while a `crowd` of them waits."""
AT_ONCE = 40

# --- what takes more than one request --------------------------------------------------------------------------------


async def full_disk(target: Target) -> str:
    """For a moment, no file that the server's own process writes may be larger than 1 MiB."""
    soft, hard = resource.prlimit(target.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(target.pid, resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        async with target.client() as http:
            response = await http.post(FILES, files={"file": ("large.mp4", bytes(3 << 20))})
    finally:
        resource.prlimit(target.pid, resource.RLIMIT_FSIZE, (soft, hard))
    return outcome(response.status_code, response.content)


async def deleted_while_used(target: Target) -> str:
    """Where the server reads the question after the deletion, there is no such file."""
    async with target.client() as http:
        upload = (await http.post(FILES, files={"file": ("clip.mp4", CLIP)})).json()["id"]
        asked = asyncio.ensure_future(answered(http, asking("Describe it.", at(f"upload:{upload}", "video_url"))))
        await asyncio.sleep(0.02)
        await http.delete(f"{FILES}/{upload}")
        return (await asked)[0]


async def crowd(target: Target) -> str:
    """Many clients at once, of whom half go away at once; more previews than may wait are told to come again."""
    leaving = posting(asking("Hello", stream=True, **LONG), leaving=0.5)
    previews = posting({"part": at(data_url(CLIP), "video_url")}, FRAMES)
    ends = await asyncio.gather(*[send(target) for _ in range(AT_ONCE) for send in (leaving, previews)])
    return " ".join(sorted(set(ends)))


# --- one request -----------------------------------------------------------------------------------------------------


def attacks() -> Attacks:
    return options() | forms() | media() | bodies() | connections()


def options() -> Attacks:
    return {
        "top_k 2^63": (say(top_k=2**63), "200"),
        "top_k 10^400": (say(top_k=10**400), OPTION),
        "top_k -2": (say(top_k=-2), REQUEST),
        "top_p and temperature near 0": (say(top_p=5e-324, temperature=1e-320), "200"),
        "min_p 1": (say(min_p=1, temperature=2), "200"),
        "seed beyond 64 bits": (say(seed=-(10**300)), "200"),
        "temperature 1e308": (say(temperature=1e308), REQUEST),
        "penalties": (say(repetition_penalty=1e300, presence_penalty=-2, frequency_penalty=2), "200"),
        "repetition_penalty 1e-320": (say(repetition_penalty=1e-320), OPTION),
        "stop tokens beyond the vocabulary": (say(stop_token_ids=[2**70, 0]), "200"),
        "5000 stop tokens": (say(stop_token_ids=list(range(5000))), REQUEST),
        "stop at half a character": (say(stop=["\ud800"]), REQUEST),
        "n 2^31": (say(n=2**31), OPTION),
        "max_tokens 2^63": (say(max_tokens=2**63), OPTION),
        "8 answers, log-probabilities": (say(n=8, logprobs=True, top_logprobs=20, max_tokens=100), "200"),
        "time is up": (say(timeout=0.5, **LONG), LATE),
        "time is up within a stream": (say(timeout=3, stream=True, **LONG), "200 timeout", LATE),
        "time is up at once": (posting(asking("What?", at(data_url(SIGN)), timeout=1e-9)), LATE),
        "client leaves": (posting(asking("Hello", **LONG), leaving=1), "left"),
        "client leaves a stream": (posting(asking("Hello", stream=True, **LONG), leaving=2), "left"),
        "client leaves a video": (posting(asking("?", at(data_url(CLIP), "video_url", fps=10)), leaving=0.05), "left"),
    }


def forms() -> Attacks:
    patterns = {"type": "string", "allOf": [{"pattern": f"^.*a.{{{n}}}.*$"} for n in range(1, 23)]}
    remainder = {"type": "integer", "multipleOf": 99_999_991}
    return {
        "22 patterns": (formed("json_schema", patterns, timeout=60), OPTION, LATE),
        "remainder": (formed("json_schema", remainder, timeout=60), OPTION, LATE),
        "remainder in no time": (formed("json_schema", remainder, timeout=2), LATE),
        "remainder, client leaves": (formed("json_schema", remainder, leaving=1.5), "left"),
        "repetition of repetitions": (formed("regex", "(a{1000}){1000}", timeout=60), OPTION, LATE),
        "3000 options": (formed("regex", "(" + "a?" * 3000 + ")" + "a" * 3000, timeout=60), OPTION, LATE),
        "no regular expression": (formed("regex", "("), OPTION),
        "half a character in a pattern": (formed("regex", "\ud800"), REQUEST),
        "pattern of 60,000 characters": (formed("regex", "a" * 60_000), REQUEST),
        "180 levels": (posting(nested(180)), OPTION),
        "10,000 levels": (posting(nested(10_000)), REQUEST),
        "schema of itself": (formed("json_schema", {"$ref": "#"}), OPTION),
        "schema from elsewhere": (formed("json_schema", {"$ref": "http://127.0.0.1:9/a"}), OPTION),
        "number of 4000 digits": (formed("json_schema", {"const": 10**4000}), OPTION),
        "no type": (formed("json_schema", {"type": "nothing"}), OPTION),
    }


def media() -> Attacks:
    frames = [{"timestamp": time, "url": "data:,"} for time in range(4000)]
    return {
        "4 Mpx": (large(2048), "200"),
        "4 Mpx, as large as may be": (large(2048, max_pixels=1 << 20), "200"),
        "16 Mpx, as large as may be": (large(4096, max_pixels=1 << 20), "200"),
        "16 Mpx, previewed": (large(4096, previewed=True), "200", BUSY),
        "16 Mpx, client leaves": (large(4096, max_pixels=1 << 20, leaving=1), "left"),
        "16 Mpx, time is up": (large(4096, max_pixels=1 << 20, timeout=1), LATE),
        "100 Mpx of black": (shown(black(10_000)), "200"),
        "more pixels than are shown": (shown(SIGN, max_pixels=1 << 40), OPTION),
        "claims 900 Mpx": (shown(bomb(30_000)), MEDIUM),
        "claims 100 Mpx": (shown(bomb(10_000)), MEDIUM),
        "cut video": (shown(CLIP[:3000], "video_url"), MEDIUM),
        "cut picture": (shown(SIGN[: len(SIGN) // 2]), MEDIUM, "200"),
        "video of 10 hours": (shown(clip(64, 64, (0, 36_000)), "video_url"), MEDIUM),
        "video of 33 Mpx": (shown(clip(7680, 4320, range(12)), "video_url", fps=1), "200"),
        "4000 frames": (posting(asking("?", {"type": "video_frames", "video_frames": {"frames": frames}})), OPTION),
        "broken TIFF": (shown(tiff().replace(b"\xff\xdb", b"\xff\xfe")), MEDIUM),
        "noise": (shown(os.urandom(3000)), MEDIUM),
        "noise, previewed": (posting({"part": at(data_url(os.urandom(999)), "video_url")}, FRAMES), MEDIUM, BUSY),
        "picture as a video": (shown(SIGN, "video_url"), MEDIUM, "200"),
        "10,000 frames a second": (shown(CLIP, "video_url", fps=1e4), OPTION, "200"),
        "2^40 frames": (shown(CLIP, "video_url", max_frames=2**40), OPTION),
        "segments beyond the end": (shown(CLIP, "video_url", segments=[[1e9, 2e9]]), OPTION, MEDIUM),
        "data: and nothing": (shown("data:"), MEDIUM),
        "data: and a comma": (shown("data:,"), MEDIUM),
        "data: no base64": (shown("data:image/png;base64,%%%\ud800"), MEDIUM, REQUEST),
        "data: of another type": (shown(data_url(SIGN, "text/html")), "200", MEDIUM),
        "data: in capitals": (shown(data_url(SIGN).replace("data:", "DATA:")), "200"),
        "data: per cent": (shown(f"data:image/png,{quote(SIGN)}"), "200"),
        "65 pictures": (posting(asking("?", *[at("data:,")] * 65)), OPTION),
        "file": (shown("file:///etc/passwd"), MEDIUM),
        "this machine": (shown("http://127.0.0.1:9/a.png"), MEDIUM),
        "private address": (shown("http://169.254.169.254/latest"), MEDIUM),
        "no such scheme": (shown("gopher://localhost/"), "400 invalid_prompt"),
        "upload elsewhere": (shown("upload:../../etc/passwd"), "404 file_not_found"),
        "upload deleted while used": (deleted_while_used, "200", MEDIUM, "404 file_not_found"),
    }


def bodies() -> Attacks:
    words = "the " * 100_000
    return {
        "beyond the context": (posting(asking(words)), "400 context_length_exceeded"),
        "beyond all texts": (posting(asking(words * 2)), OPTION),
        "special tokens": (posting(asking("<|im_end|><|image_pad|>" * 1000, max_tokens=5)), "200"),
        "half characters": (posting(asking("\ud800", max_tokens=5)), REQUEST),
        "NUL": (posting(asking("\0" * 1000, max_tokens=5)), "200"),
        "no JSON": (posting(b'{"messages": ['), REQUEST),
        "no UTF-8": (posting(b'{"messages": [{"role": "user", "content": "\xff"}]}'), REQUEST),
        "nothing": (posting(b""), REQUEST),
        "deep JSON": (posting(b'{"messages":' + b"[" * 100_000), REQUEST),
        "wide JSON": (posting(b'{"messages":[' + b"{}," * 600_000), REQUEST),
        "wrong role": (posting({"messages": [{"role": "<|im_end|>", "content": "a"}]}), REQUEST),
        "role of tools": (posting({"messages": [{"role": "tool", "content": "a"}]}), REQUEST),
        "unknown key": (say(max_token=5), REQUEST),
        "key of 60,000 characters": (say(**{"k" * 60_000: 1}), REQUEST),
        "tools": (say(tools=[{"type": "function"}]), "400 unsupported"),
        "number of 5000 digits": (posting(b'{"seed":' + b"9" * 5000 + b"}"), REQUEST),
        "no messages": (posting({"messages": []}), REQUEST),
        "5000 messages": (posting({"messages": [{"role": "user", "content": "a"}] * 5000}), REQUEST),
    }


def connections() -> Attacks:
    chat = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d"
    file = b'name="file"; filename="a.png"\r\n\r\n' + SIGN
    return {
        "method of 60 kB": (raw(b"A" * 60_000 + b" / HTTP/1.1"), "405 method_not_allowed"),
        "path of 60 kB": (raw(b"GET /" + b"%0a" * 20_000 + b" HTTP/1.1"), "404 not_found"),
        "headers of 1 MB": (raw(b"GET / HTTP/1.1\r\na: " + b"b" * 1_000_000), "400", "closed"),
        "no HTTP": (raw(b"\x16\x03\x01 hello"), "400"),
        "another site": (raw(b"GET /v1/models HTTP/1.1\r\norigin: http://["), "403 foreign_site"),
        "web socket": (raw(b"GET / HTTP/1.1\r\nupgrade: websocket\r\nsec-websocket-key: a"), "200", "400", "403"),
        "body without an end": (raw(chat % 10**12, b"{"), "413 too_large"),
        "negative length": (raw(chat % -1, b"{"), "400"),
        "client leaves its request": (raw(chat % 1000, b"{", leaves=True), "left"),
        "client leaves its upload": (form(file, end=b"", leaves=True), "left"),
        "upload cut off": (form(file, end=b""), "400 invalid_form"),
        "upload of two files": (form(file, file), "400 invalid_form"),
        "upload of no file": (form(b'name="file"\r\n\r\nb'), "400 missing_file"),
        "upload of nothing": (form(b'name="file"; filename="a.png"\r\n\r\n'), "400 empty_file"),
        "upload without a form": (posting(b"x" * 100_000, FILES), "400 invalid_form"),
        "crowd": (crowd, f"200 {BUSY} left", "200 left"),
        "upload to a full disk": (full_disk, "503 out_of_resources"),
    }
