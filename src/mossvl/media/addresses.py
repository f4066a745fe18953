"""Host names, public IP addresses, and an HTTP transport that connects to public addresses only."""

import socket
from collections.abc import Iterator
from concurrent.futures import Future
from ipaddress import IPv6Address, ip_address, ip_network
from threading import Thread

import httpx

from mossvl.errors import MediaError

# IANA's special-purpose address registries, without their few globally reachable entries.
_NOT_PUBLIC = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # globally routable, but Azure's host services for its virtual machines
        "169.254.0.0/16",  # link-local, with the metadata services of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4: embeds an IPv4 address
        "3fff::/20",
    )
]
_GLOBAL_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")  # Embeds an IPv4 address in the last 32 bits.


def host_name(host: str) -> str:
    """Normalise a host name: ASCII (IDNA), lower case, no final dot.

    Raises:
        httpx.InvalidURL: not a valid host name.
    """
    return httpx.URL(host=host).raw_host.decode("ascii").rstrip(".")


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is unicast and globally reachable."""
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
    """Return the distinct addresses of a host, best first. Raises OSError or UnicodeError if there are none."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class PublicTransport(httpx.BaseTransport):
    """Connects to public addresses only.

    Each request resolves its host once and connects to the addresses that were checked, so that DNS rebinding has no
    effect. A host with any address that is not public is refused. The Host header, SNI and certificate check use the
    host name. Proxies are not used.

    Args:
        name: name of the source in messages.
        seconds: time limit for resolving one host.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds
        # Kept connections are pooled by address: one would serve another host at that address, its certificate
        # unchecked.
        self._transport = httpx.HTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises MediaError for a host that is not public, httpx.TransportError on failure."""
        failure: httpx.TransportError | None = None
        for pinned in self._pinned(request):
            try:
                return self._transport.handle_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        assert failure is not None, "a host has an address"
        raise failure

    def _pinned(self, request: httpx.Request) -> Iterator[httpx.Request]:
        """Yield the request for each address of its host."""
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
        # One message for unknown and private hosts: the sender of a URL must not learn which internal hosts exist.
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
    """Run `resolve` in a thread, as getaddrinfo has no timeout. Raises TimeoutError."""
    answer: Future[list[str]] = Future()

    def ask() -> None:
        try:
            answer.set_result(resolve(host))
        except Exception as error:
            answer.set_exception(error)

    Thread(target=ask, daemon=True).start()
    return answer.result(seconds)
