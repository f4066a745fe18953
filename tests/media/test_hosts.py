"""Which hosts a stranger's URL may reach."""

import socket
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from mossvl.errors import GenerationTimeout, MediaError
from mossvl.media import addresses
from mossvl.media.addresses import PublicTransport
from mossvl.media.fetch import local_file
from mossvl.media.limits import MediaLimits, SourcePolicy

OUTSIDE = "93.184.215.14"
NOBODY = "93.184.215.15"
INSIDE = "127.0.0.1"
DOMAINS = ("Example.org", "bücher.example", "localhost")


def limits(**policy: Any) -> MediaLimits:
    return MediaLimits(download_bytes=1 << 20, timeout=20, sources=SourcePolicy(**policy))


def fetch(source: str | Path, allowed: MediaLimits) -> bytes:
    with local_file(source, allowed) as path:
        return path.read_bytes()


class Internet:
    """Names, and machines at addresses, all of them the test's web server; whoever is asked and called is noted.

    Attributes:
        names: a host's answers, each a list of addresses, in the order of asking; the last one stays.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.machines = {OUTSIDE, INSIDE, "::1"}
        self.names = {"media.test": [[OUTSIDE]], "localhost": [[INSIDE]]}
        self.asked: list[str] = []
        self.called: list[str] = []
        self._connect = socket.create_connection

    def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        if host in self.names:
            answers = self.names[host]
            return answers.pop(0) if len(answers) > 1 else answers[0]
        return [str(info[4][0]) for info in socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)]

    def connect(self, address: tuple[str, int], *rest: Any, **options: Any) -> socket.socket:
        self.called.append(address[0])
        if address[0] not in self.machines:
            raise ConnectionRefusedError("nobody there")
        return self._connect((INSIDE, self.port), *rest, **options)

    def url(self, host: str, path: str = "small.png") -> str:
        return f"http://{host}:{self.port}/{path}"


@pytest.fixture
def internet(server: str, monkeypatch: pytest.MonkeyPatch) -> Internet:
    port = urlsplit(server).port
    assert port is not None
    internet = Internet(port)
    monkeypatch.setattr(addresses, "resolve", internet.resolve)
    monkeypatch.setattr(socket, "create_connection", internet.connect)
    return internet


@pytest.fixture
def small(golden: Path) -> bytes:
    return (golden / "media" / "small.png").read_bytes()


def test_a_public_host_is_asked_by_its_name_at_the_address_that_was_checked(internet: Internet) -> None:
    assert fetch(internet.url("media.test", "host"), limits(public_only=True)) == f"media.test:{internet.port}".encode()
    assert (internet.asked, internet.called) == (["media.test"], [OUTSIDE])


def test_a_public_address_itself_may_be_given(internet: Internet, small: bytes) -> None:
    assert fetch(internet.url(OUTSIDE), limits(public_only=True)) == small
    internet.machines.add("2606:4700::1111")
    assert fetch(internet.url("[2606:4700::1111]"), limits(public_only=True)) == small


def test_the_next_address_is_tried_when_nobody_answers(internet: Internet, small: bytes) -> None:
    internet.names["media.test"] = [[NOBODY, OUTSIDE]]
    assert fetch(internet.url("media.test"), limits(public_only=True)) == small
    assert internet.called == [NOBODY, OUTSIDE]


def test_a_host_at_which_nobody_answers_is_a_failed_download(internet: Internet) -> None:
    internet.names["media.test"] = [[NOBODY, NOBODY]]
    with pytest.raises(MediaError, match="download failed"):
        fetch(internet.url("media.test"), limits(public_only=True))


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "017700000001",
        "0",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fe80::1%25lo]",
        "[fd00::1]",
        "ⓛocalhost",
        "１２７.0.0.1",
        "missing.test",
        "a..b",
        "xn--a",
        ".",
    ],
)
def test_a_host_that_is_not_public_is_not_called(internet: Internet, host: str) -> None:
    with pytest.raises(MediaError):
        fetch(internet.url(host), limits(public_only=True))
    with pytest.raises(MediaError):
        fetch(internet.url("media.test", f"to?{internet.url(host)}"), limits(public_only=True))
    assert set(internet.called) <= {OUTSIDE}


@pytest.mark.parametrize(
    "found", [[INSIDE], [OUTSIDE, INSIDE], [INSIDE, OUTSIDE], [OUTSIDE, "::1"], ["fe80::1%lo"], []]
)
def test_a_name_with_any_address_that_is_not_public_is_refused(internet: Internet, found: list[str]) -> None:
    internet.names["mixed.test"] = [found]
    with pytest.raises(MediaError, match=r"mixed\.test cannot be found on the public internet"):
        fetch(internet.url("mixed.test"), limits(public_only=True))
    assert internet.called == []


def test_a_second_answer_is_not_asked_for(internet: Internet, small: bytes) -> None:
    internet.names["rebinding.test"] = [[OUTSIDE], [INSIDE]]
    assert fetch(internet.url("rebinding.test"), limits(public_only=True)) == small
    assert (internet.asked, internet.called) == (["rebinding.test"], [OUTSIDE])


def test_an_answer_that_changes_on_the_way_is_checked_anew(internet: Internet) -> None:
    internet.names["rebinding.test"] = [[OUTSIDE], [INSIDE]]
    with pytest.raises(MediaError, match="public internet"):
        fetch(internet.url("rebinding.test", "once"), limits(public_only=True))
    assert (internet.asked, internet.called) == (["rebinding.test"] * 2, [OUTSIDE])


def test_redirects_between_public_hosts_are_followed(internet: Internet, small: bytes) -> None:
    internet.names["other.test"] = [[OUTSIDE]]
    assert (
        fetch(internet.url("media.test", f"to?{internet.url('other.test', 'hops?2')}"), limits(public_only=True))
        == small
    )
    assert internet.asked == ["media.test", "other.test", "other.test", "other.test"]


@pytest.mark.parametrize(
    "target", ["http://localhost", "http://127.0.0.1/a?token=secret", "//[::1]/", "https://0x7f.1:8443/"]
)
def test_a_redirect_inside_is_refused_before_anything_is_asked_there(internet: Internet, target: str) -> None:
    with pytest.raises(MediaError, match="public internet") as caught:
        fetch(internet.url("media.test", f"to?{target}"), limits(public_only=True))
    assert "secret" not in str(caught.value)
    assert internet.called == [OUTSIDE]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://user:password@media.test/", "user or password"),
        ("http://user@media.test/", "user or password"),
        ("http://media.test:22/", "port 22"),
        ("http://media.test:0/", "port 0"),
        ("https://media.test:25/", "port 25"),
        ("gopher://media.test/", "scheme"),
        ("ws://media.test/", "scheme"),
        ("http+unix://media.test/", "scheme"),
    ],
)
def test_what_no_public_url_needs_is_refused(internet: Internet, url: str, message: str) -> None:
    for source in (url, internet.url("media.test", f"to?{url}")):
        with pytest.raises(MediaError, match=message) as caught:
            fetch(source, limits(public_only=True))
        assert "user" not in str(caught.value).split("has a user")[0]
    assert internet.called == [OUTSIDE]


@pytest.mark.parametrize("port", ["80", "1024", "8080"])
def test_other_ports_may_be_asked(internet: Internet, small: bytes, port: str) -> None:
    assert fetch(f"http://media.test:{port}/small.png", limits(public_only=True)) == small


def test_proxies_of_the_environment_are_not_used(
    internet: Internet, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetch(internet.url("media.test"), limits(public_only=True)) == small
    assert internet.called == [OUTSIDE]


def test_the_server_of_a_secure_url_is_told_the_name(internet: Internet) -> None:
    heard: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            heard.append(connection.recv(4096))

    with socket.create_server((INSIDE, 0)) as listener:
        thread = Thread(target=listen, args=(listener,))
        thread.start()
        internet.port = listener.getsockname()[1]
        with pytest.raises(MediaError, match="download failed"):
            fetch("https://media.test/", limits(public_only=True))
        thread.join()
    assert b"media.test" in heard[0]


def test_every_request_has_a_connection_of_its_own_and_comes_whole(internet: Internet) -> None:
    """Two names of one address may be two servers; what is sent goes to each of them as it was given."""
    internet.names["other.test"] = [[OUTSIDE]]
    heard: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                while not heard or not heard[-1].endswith(b"question"):
                    heard.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer")
                heard.append(connection.recv(4096))

    with socket.create_server((INSIDE, 0)) as listener:
        thread = Thread(target=listen, args=(listener,))
        thread.start()
        internet.port = listener.getsockname()[1]
        with httpx.Client(transport=PublicTransport("clip", 20)) as client:
            for host in ("media.test", "other.test"):
                assert client.post(f"http://{host}/", content=b"question").content == b"answer"
        thread.join()
    assert internet.called == [OUTSIDE, OUTSIDE]
    assert heard.count(b"") == 2, "the client has closed both"


@pytest.mark.parametrize("path", ["says-large", "is-large", "zip-large"])
def test_public_downloads_are_bounded_too(internet: Internet, path: str) -> None:
    with pytest.raises(MediaError, match="larger than 1048576 bytes"):
        fetch(internet.url("media.test", path), limits(public_only=True))


def test_a_name_server_that_does_not_answer_is_left_when_time_is_up(internet: Internet, monkeypatch: Any) -> None:
    over = Event()
    monkeypatch.setattr(addresses, "resolve", lambda host: [str(over.wait(60))])
    with pytest.raises(GenerationTimeout, match=r"media\.test"):
        fetch(internet.url("media.test"), MediaLimits(timeout=0.1, sources=SourcePolicy(public_only=True)))
    over.set()


@pytest.mark.parametrize("path", ["slow-header", "to?http://media.test/slow-header"])
def test_a_public_server_that_is_slow_is_left_when_time_is_up(internet: Internet, path: str) -> None:
    with pytest.raises(GenerationTimeout, match=r"media\.test"):
        fetch(internet.url("media.test", path), MediaLimits(timeout=0.3, sources=SourcePolicy(public_only=True)))


@pytest.mark.parametrize(
    "host", ["example.org", "a.b.EXAMPLE.org", "example.org.", "BÜCHER.example", "xn--bcher-kva.example"]
)
def test_a_domain_and_its_subdomains_may_be_asked(internet: Internet, small: bytes, host: str) -> None:
    for name in ("example.org", "a.b.example.org", "xn--bcher-kva.example"):
        internet.names[name] = [[OUTSIDE]]
    assert fetch(internet.url(host), limits(public_only=True, domains=DOMAINS)) == small


@pytest.mark.parametrize(
    "host",
    [
        "evil-example.org",
        "example.org.evil.test",
        "org",
        "example.orgs",
        "example.org%2eevil.test",
        "bucher.example",
        OUTSIDE,
    ],
)
@pytest.mark.parametrize("public_only", [False, True])
def test_look_alikes_are_not_asked(internet: Internet, host: str, public_only: bool) -> None:
    policy = limits(public_only=public_only, domains=DOMAINS)
    with pytest.raises(MediaError, match=r"give a URL of Example\.org"):
        fetch(internet.url(host), policy)
    assert internet.asked == internet.called == []


def test_a_redirect_out_of_the_domains_is_refused(server: str, small: bytes) -> None:
    there = server.replace("127.0.0.1", "localhost")
    for path in ("small.png", "once", f"to?{there}/small.png"):
        assert fetch(f"{there}/{path}", limits(domains=DOMAINS)) == small
    with pytest.raises(MediaError, match=r"redirected to http://127\.0\.0\.1.*give a URL of"):
        fetch(f"{there}/to?{server}/small.png", limits(domains=DOMAINS))


def test_an_allowed_domain_must_still_be_public(internet: Internet) -> None:
    with pytest.raises(MediaError, match="public internet"):
        fetch(internet.url("localhost"), limits(public_only=True, domains=DOMAINS))
