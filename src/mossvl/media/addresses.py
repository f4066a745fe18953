"""Hosts on the internet: how names are written, which addresses are public, and connections to those alone."""

import socket
from collections.abc import Iterator
from concurrent.futures import Future
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Thread

import httpx

from mossvl.errors import MediaError

# IANA's registries of special addresses, without the few entries that anyone may reach.
_NOT_PUBLIC = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared behind a provider's translator
        "127.0.0.0/8",
        "168.63.129.16/32",  # registered like any other, but Azure answers its virtual machines there
        "169.254.0.0/16",  # link-local, where clouds keep their metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # protocols' own: Teredo, benchmarks, ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4: another IPv4 address inside
        "3fff::/20",
    )
]
_GLOBAL_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")  # What a network without IPv4 makes of every IPv4 host: its address, at the end.


def host_name(host: str) -> str:
    """A host as it is sent and compared: in ASCII (IDNA), lower case, no dot at the end.

    Raises:
        httpx.InvalidURL: no host is called that.
    """
    return httpx.URL(host=host).raw_host.decode("ascii").rstrip(".")


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is of one machine that all of the internet can reach."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        if ip.scope_id is not None:
            return False
        if ip in _NAT64:
            return is_public(str(ip_address(int(ip) & 0xFFFFFFFF)))
        if ip not in _GLOBAL_UNICAST:
            return False
    return not any(ip in network for network in _NOT_PUBLIC)


def resolve(host: str) -> list[str]:
    """The addresses of a host, the best first, each once. Raises OSError or UnicodeError if there are none."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class PublicTransport(httpx.BaseTransport):
    """Sends each request to an address of its host that was found to be public.

    The name is resolved once a request, and the connection goes to what was checked: a second answer, which may be
    another, is never asked for. A host that has any address which is not public is refused. The name still is what the
    server is told and what its certificate must bear. Proxies are not used.

    Args:
        name: what to call the source in messages.
        seconds: how long resolving one name may take.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        # A kept connection is found by its address alone, and would serve another name of it without a look at its
        # certificate.
        self._transport = httpx.HTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises MediaError for a host that is not public, and what httpx raises when it cannot be reached."""
        failure: httpx.TransportError | None = None
        for pinned in self._pinned(request):
            try:
                return self._transport.handle_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        assert failure is not None, "a host has an address"
        raise failure

    def _pinned(self, request: httpx.Request) -> Iterator[httpx.Request]:
        """The same request to each address of its host."""
        host = host_name(request.url.raw_host.decode("ascii"))
        for address in self._addresses(host):
            yield httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions=request.extensions | {"sni_hostname": host},
            )

    def _addresses(self, host: str) -> list[str]:
        try:
            found = _resolve_within(self.seconds, host)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"the name {host} was not resolved within {self.seconds:g} s") from error
        except (OSError, UnicodeError):
            found = []
        # One message for all, as it may be read by those who would like to know what there is inside.
        if not found or not all(map(is_public, found)):
            raise MediaError(
                f"{self.name}: {host} cannot be found on the public internet",
                setting="SourcePolicy.public_only",
                advice="; check the URL, or allow private addresses ({})",
            )
        return found

    def close(self) -> None:
        self._transport.close()


def _resolve_within(seconds: float, host: str) -> list[str]:
    """`resolve`, in a thread: nothing else ends a wait for a name server. Raises TimeoutError."""
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            answer.set_result(resolve(host))
        except Exception as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer.result(seconds)
