"""Content parts as clients spell them, and the files that they name."""

import base64
import json
from pathlib import Path

import httpx
import openai
import pytest
from running import PATIENCE, serving

from mossvl.errors import InputError
from mossvl.server.config import ServerConfig
from mossvl.server.errors import RequestError
from mossvl.server.reading import Reader
from mossvl.server.schemas.chat import ChatRequest
from mossvl.server.service import parsed

EXAMPLES = Path(__file__).parents[2] / "examples"
SIGN, CLIP = (base64.b64encode((EXAMPLES / name).read_bytes()).decode() for name in ("sign.png", "clip.mp4"))
PICTURE, VIDEO = f"data:image/png;base64,{SIGN}", f"data:video/mp4;base64,{CLIP}"
URL = "https://example.org/a"


def read(part, folder="/uploads"):
    body = json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode()
    reader = Reader(ServerConfig(), 8, lambda file_id: f"{folder}/{file_id}")
    return reader.read(parsed(ChatRequest, body)).query.turn[0]["content"][0]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "input_text", "text": "a", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "a"}),
        ({"type": "input_image", "image_url": URL, "detail": "low"}, {"type": "image", "image": URL}),
        ({"type": "input_image", "file_id": "x"}, {"type": "image", "image": "/uploads/x"}),
        ({"type": "image", "image": URL, "max_pixels": 5000}, {"type": "image", "image": URL, "max_pixels": 5000}),
        ({"type": "image", "url": URL, "uuid": "7"}, {"type": "image", "image": URL}),
        ({"type": "image", "base64": SIGN}, {"type": "image", "image": f"data:;base64,{SIGN}"}),
        ({"type": "image_url", "image_url": {"url": SIGN}}, {"type": "image", "image": f"data:;base64,{SIGN}"}),
        ({"type": "image_url", "image_url": URL, "uuid": None, "cache_control": 1}, {"type": "image", "image": URL}),
        ({"type": "video", "video": URL, "fps": 2}, {"type": "video", "video": URL, "video_fps": 2.0}),
        ({"type": "input_video", "video_url": {"url": URL}}, {"type": "video", "video": URL}),
        ({"type": "input_video", "file_id": "x"}, {"type": "video", "video": "/uploads/x"}),
        (
            {"type": "video", "video": [URL, URL], "fps": 4},
            {"type": "video", "video": [(0.0, URL), (0.25, URL)], "video_fps": 4.0},
        ),
        (
            {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64,AAAA,BBBB,CCCC"}},
            {
                "type": "video",
                "video": [(float(i), f"data:image/jpeg;base64,{one * 4}") for i, one in enumerate("ABC")],
                "video_fps": 1.0,
            },
        ),
        ({"type": "file", "file": {"file_data": PICTURE}}, {"type": "image", "image": PICTURE}),
        ({"type": "file", "file": {"file_data": SIGN}}, {"type": "image", "image": f"data:;base64,{SIGN}"}),
        ({"type": "file", "file": {"file_data": CLIP}}, {"type": "video", "video": f"data:;base64,{CLIP}"}),
        (
            {"type": "file", "file": {"file_data": f"data:;base64,{CLIP}", "filename": "a.mp4"}},
            {"type": "video", "video": f"data:;base64,{CLIP}"},
        ),
        ({"type": "input_file", "file_url": f"{URL}.png?b=1.mp4"}, {"type": "image", "image": f"{URL}.png?b=1.mp4"}),
        ({"type": "file", "file": {"file_id": "x.webm"}}, {"type": "video", "video": "/uploads/x.webm"}),
    ],
)
def test_a_part_of_another_spelling_is_the_same_part(part, expected):
    assert read(part) == expected


def test_a_file_without_a_name_is_known_by_its_content(tmp_path):
    for name, kind in (("sign.png", "image"), ("clip.mp4", "video")):
        (tmp_path / kind).write_bytes((EXAMPLES / name).read_bytes())
        assert read({"type": "input_file", "file_id": kind}, tmp_path)["type"] == kind


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image"}, "image_url.url: Field required"),
        ({"type": "video", "video": []}, "video_frames.frames: List should have at least 1"),
        ({"type": "video", "video": URL, "max_frame": 1}, "unknown key; did you mean 'max_frames'"),
        ({"type": "file", "file": {}}, "one of file_id, file_data and file_url"),
        ({"type": "file", "file": {"file_id": "a", "file_data": SIGN}}, "one of file_id, file_data and file_url"),
        (
            {"type": "input_file", "filename": "a.pdf", "file_data": SIGN},
            "'a.pdf' is no image and no video, but of type application/pdf",
        ),
        ({"type": "input_audio", "input_audio": {}}, "type 'input_audio' is none of"),
        ({"type": "image_url", "image_url": "/etc/passwd"}, "no URL of a known scheme"),
        ({"type": "image_url", "image_url": "a" * 70 + "!"}, "no URL of a known scheme"),
    ],
)
def test_what_is_no_part_is_refused(part, words):
    with pytest.raises((InputError, RequestError), match=words):
        read(part)


# --- in a server -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=PATIENCE, max_retries=0) as client:
        yield client


def answer(client, part, question):
    content = [part, {"type": "input_text", "text": question}]
    answer = client.chat.completions.create(model="mossvl-tiny", messages=[{"role": "user", "content": content}])
    return answer.choices[0].message.content, answer.mossvl["media"][0]


def test_files_are_seen_in_every_spelling(client):
    with (EXAMPLES / "sign.png").open("rb") as sign, (EXAMPLES / "clip.mp4").open("rb") as clip:
        picture, video = (client.files.create(file=file, purpose="vision") for file in (sign, clip))
    for part in (
        {"type": "image_url", "image_url": {"url": SIGN, "detail": "high"}},
        {"type": "input_image", "file_id": picture.id},
        {"type": "file", "file": {"file_id": picture.id}},
        {"type": "file", "file": {"file_data": SIGN, "filename": "a"}},
    ):
        assert answer(client, part, "What is written there?")[0] == "MOSS"
    for part in ({"type": "video", "video": VIDEO}, {"type": "input_file", "file_id": video.id}):
        assert answer(client, part, "When does the blue star appear?")[0] == "2.0 seconds"


def test_frames_in_one_url_are_a_video_of_one_frame_a_second(client):
    part = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{SIGN},{SIGN},{SIGN}"}}
    assert answer(client, part, "What?")[1]["timestamps"] == [0.0, 1.0, 2.0]
    part["video_url"] |= {"fps": 4, "url": f"data:video/jpeg;base64,{SIGN}"}
    assert answer(client, part, "What?")[1]["timestamps"] == [0.0]


def test_files_are_listed_in_pages_and_given_back_as_they_were(client):
    contents = (b"first", b"second", b"third")
    ids = [client.files.create(file=("<a>.html", content), purpose="vision").id for content in contents]
    newest = [file.id for file in client.files.list(limit=1)][:3]
    assert newest == ids[::-1]
    oldest = [file.id for file in client.files.list(order="asc")]
    assert oldest[-3:] == ids
    found = client.files.content(ids[1])
    assert found.read() == b"second"
    headers = found.response.headers
    assert headers["content-type"] == "application/octet-stream" and headers["x-content-type-options"] == "nosniff"
    assert headers["content-disposition"].startswith("attachment")
    client.files.delete(ids[1])
    assert ids[1] not in [file.id for file in client.files.list()]
    with pytest.raises(openai.NotFoundError):
        client.files.content(ids[1])
    for wrong in ({"limit": 0}, {"limit": "x"}, {"order": "up"}, {"after": "file-1"}, {"limt": 2}):
        assert httpx.get(f"{client.base_url}files", params=wrong).status_code == 400


def test_a_file_has_the_purpose_that_was_given(client):
    given = {
        purpose: client.files.create(file=("a.png", b"a"), purpose=purpose)
        for purpose in ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
    }
    for purpose, file in given.items():
        assert file.purpose == client.files.retrieve(file.id).purpose == purpose
    listed = {file.id for file in client.files.list(purpose="user_data")}
    assert given["user_data"].id in listed and given["vision"].id not in listed
    url, files = f"{client.base_url}files", {"file": ("a.png", b"a")}
    assert httpx.post(url, files=files).json()["purpose"] == "vision"
    for unknown in ("visions", "", "x" * 10_000, "user_data\n"):
        refused = httpx.post(url, files=files, data={"purpose": unknown})
        error = refused.json()["error"]
        assert (refused.status_code, error["param"]) == (400, "purpose")
        assert "is none of 'assistants', 'batch', 'evals', 'fine-tune', 'user_data', 'vision'" in error["message"]


def test_no_key_reaches_the_files_of_another(keyed):
    def answers(key, file_id):
        """To all requests that name a file; the last one deletes it."""
        said = [{"role": "user", "content": [{"type": "input_image", "file_id": file_id}]}]
        filed = [{"role": "user", "content": [{"type": "file", "file": {"file_id": file_id}}]}]
        block = {"type": "image", "source": {"type": "file", "file_id": file_id}}
        asked = {"messages": [{"role": "user", "content": [block]}]}
        part = {"type": "image_url", "image_url": f"upload:{file_id}"}
        with httpx.Client(base_url=keyed.url, headers={"x-api-key": key}, timeout=PATIENCE) as client:
            return [
                client.get(f"/v1/files/{file_id}"),
                client.get(f"/v1/files/{file_id}/content"),
                client.post("/v1/chat/completions", json={"messages": said, "max_tokens": 1}),
                client.post("/v1/chat/completions", json={"messages": filed, "max_tokens": 1}),
                client.post("/v1/responses", json={"input": said, "max_output_tokens": 1}),
                client.post("/v1/messages", json=asked | {"max_tokens": 1}),
                client.post("/v1/messages/count_tokens", json=asked),
                client.post("/v1/media/frames", json={"part": part}),
                client.delete(f"/v1/files/{file_id}"),
            ]

    file, own = ("a.png", base64.b64decode(SIGN)), {"x-api-key": "one"}
    file_id = httpx.post(f"{keyed.url}/v1/files", files={"file": file}, headers=own, timeout=PATIENCE).json()["id"]
    for key, status in (("two", 404), ("one", 200), ("one", 404)):
        found = answers(key, file_id)
        assert [answer.status_code for answer in found] == [status] * len(found)
        if status == 404:
            assert all(f"no uploaded file '{file_id}'" in answer.json()["error"]["message"] for answer in found)


def test_files_are_listed_to_the_key_that_uploaded_them_alone(keyed):
    def listed(running, key):
        headers = {"authorization": f"Bearer {key}"}
        httpx.post(f"{running.url}/v1/files", files={"file": (key, b"a")}, headers=headers, timeout=PATIENCE)
        found = httpx.get(f"{running.url}/v1/files", headers=headers, timeout=PATIENCE)
        return found.status_code, [file["filename"] for file in found.json().get("data", ())]

    assert [listed(keyed, key) for key in ("one", "two")] == [(200, ["one"]), (200, ["two"])]
    with serving("--open-to-all") as running:
        assert listed(running, "none") == (403, [])
        refused = httpx.get(f"{running.url}/v1/files", timeout=PATIENCE)
        assert refused.json()["error"]["code"] == "unlisted"
