"""Which addresses are of the public internet, against what the standard library knows of them."""

import threading
from ipaddress import IPv4Address, IPv6Address, ip_network

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mossvl.media import addresses
from mossvl.media.addresses import host_name, is_public, resolve

PUBLIC = [
    "8.8.8.8",
    "93.184.215.14",
    "100.128.0.1",
    "172.32.0.1",
    "2606:4700::1111",
    "2a00:1450:4001::e",
    "64:ff9b::808:808",
]
NOT_PUBLIC = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.1.1",
    "198.19.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    "fec0::1",
    "ff02::1",
]
STRICTER = [ip_network(network) for network in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24")]
TRANSLATED = ip_network("64:ff9b::/96")


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_that_anyone_can_reach_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_any_other_address_is_not(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
@example(IPv4Address("192.88.99.1"))
def test_of_ipv4_what_is_global_and_of_one_machine_is_public(address: IPv4Address) -> None:
    plain = address.is_global and not address.is_multicast and not address.is_reserved
    assert is_public(str(address)) == (plain and not any(address in network for network in STRICTER))


@given(st.one_of(st.ip_addresses(v=6), st.ip_addresses(network="2000::/3"), st.ip_addresses(network="2001::/16")))
def test_of_ipv6_nothing_special_is_public(address: IPv6Address) -> None:
    if is_public(str(address)) and address not in TRANSLATED:
        assert (
            address.is_global and address.ipv4_mapped is None and address.sixtofour is None and address.teredo is None
        )
        assert not (address.is_multicast or address.is_private or address.is_reserved or address.is_site_local)


@given(st.ip_addresses(v=4))
def test_a_translated_address_is_what_is_inside(address: IPv4Address) -> None:
    assert is_public(str(TRANSLATED[int(address)])) == is_public(str(address))


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "127.0.0.1", "::1", "::ffff:127.0.0.1"]
)
def test_every_way_to_write_a_loopback_address_resolves_to_one_that_is_not_public(host: str) -> None:
    assert [is_public(address) for address in resolve(host)] == [False]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Example.ORG.", "example.org"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("2606:4700::1", "2606:4700::1"),
    ],
)
def test_a_host_has_one_name(host: str, name: str) -> None:
    assert host_name(host) == name
    assert host_name(name) == name


def test_a_name_that_is_not_resolved_in_time_is_given_up(monkeypatch):
    """Also by a process that ends."""
    given_up, waited_for = threading.Event(), []

    def slow(host):
        waited_for.append(not threading.current_thread().daemon)
        given_up.wait(10)
        return ["192.0.2.1"]

    monkeypatch.setattr(addresses, "resolve", slow)
    transport = addresses.PublicTransport("a picture", 0.05)
    with pytest.raises(httpx.ConnectTimeout, match=r"the name example\.org was not resolved within 0\.05 s"):
        transport.handle_request(httpx.Request("GET", "https://example.org/a.png"))
    given_up.set()
    assert waited_for == [False]
