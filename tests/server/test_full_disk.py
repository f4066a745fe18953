"""A disk that is full: a request that needs it is told to come again, and nothing half written is left."""

import base64
import os
import resource
import subprocess
from functools import partial
from pathlib import Path

import httpx
import pytest
from running import PATIENCE, serving, waited

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIP, SIGN = (EXAMPLES / "clip.mp4").read_bytes(), (EXAMPLES / "sign.png").read_bytes()


def asking(url, kind, question):
    part = {"type": kind, kind: {"url": url}}
    return {"messages": [{"role": "user", "content": [part, {"type": "text", "text": question}]}]}


def data_url(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def processes(pid):
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in processes(int(child)))]


def files(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def refused_for_now(response):
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (503, "out_of_resources"), error
    assert "no room for temporary files" in error["message"] and response.headers["retry-after"]


def check(url, folder, large):
    """What does not fit is refused wherever it would be written, what fits is answered, and nothing is left over."""
    before = set(files(folder))
    with httpx.Client(base_url=url, timeout=PATIENCE) as client:
        refused_for_now(client.post("/v1/files", files={"file": ("a.mp4", large)}))
        stream = {"stream": True}
        for body in (
            asking(data_url("video/mp4", large), "video_url", "What?"),
            stream | asking(data_url("image/png", large), "image_url", "What?"),
        ):
            refused_for_now(client.post("/v1/chat/completions", json=body))
        part = {"type": "video_url", "video_url": data_url("video/mp4", large)}
        refused_for_now(client.post("/v1/media/frames", json={"part": part}))
        assert set(files(folder)) == before
        kept = client.post("/v1/files", files={"file": ("sign.png", SIGN)})
        assert kept.status_code == 200, kept.text
        body = asking(f"upload:{kept.json()['id']}", "image_url", "What is written there?")
        answer = client.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == "MOSS"
        assert client.delete(f"/v1/files/{kept.json()['id']}").status_code == 200
    assert set(files(folder)) == before


def test_files_that_may_not_be_so_large_are_refused_for_now(tmp_path):
    with serving("--decoders", "1", TMPDIR=str(tmp_path)) as running:
        for pid in processes(running.process.pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (65_536,) * 2)
        check(running.url, tmp_path, b"x" * 3_000_000)
        waited(lambda: "a request was refused: there is no room" in running.log, running)
        assert "Traceback" not in running.log


def test_a_disk_that_is_full_is_told_and_a_file_is_written_once(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        with serving("--decoders", "1", TMPDIR=str(tmp_path)) as running, httpx.Client(base_url=running.url) as client:
            check(running.url, tmp_path, os.urandom(5_000_000))
            for _ in range(2):
                kept = client.post("/v1/files", files={"file": ("a.mp4", b"x" * 3_500_000)})
                assert kept.status_code == 200, "one that needs more than half of the disk fits, since it is there once"
                client.delete(f"/v1/files/{kept.json()['id']}")
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_an_upload_that_is_cut_off_or_no_form_leaves_nothing(server):
    def form(*parts, end=b"--x--\r\n"):
        return b"".join(b"--x\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + end

    file = b'name="file"; filename="a.png"\r\n\r\n' + SIGN
    post = partial(httpx.post, f"{server.url}/v1/files")
    kind = {"content-type": "multipart/form-data; boundary=x"}
    bodies = {
        "cut off": form(file, end=b""),
        "more than one": form(file, file),
        "more than 9 parts": form(*[b'name="a"\r\n\r\nb'] * 10),
        "no file": form(b'name="file"\r\n\r\nb', b'name="image"; filename="a.png"\r\n\r\n' + SIGN),
        "empty": form(b'name="file"; filename="a.png"\r\n\r\n'),
        "expected a form": b"no form at all",
    }
    for words, body in bodies.items():
        response = post(content=body, headers=kind)
        assert response.status_code == 400 and words in response.json()["error"]["message"], response.text
    for other in ("", "multipart/form-data", "application/json", "multipart/form-data; boundary=" + "x" * 1000):
        assert post(content=form(file), headers={"content-type": other}).status_code == 400
    kept = post(content=form(b'name="purpose"\r\n\r\nvision', file), headers=kind).json()
    assert (kept["bytes"], kept["filename"]) == (len(SIGN), "a.png")
    httpx.delete(f"{server.url}/v1/files/{kept['id']}")
