"""Which addresses media may come from: names on the list, public addresses behind them, whatever form they take."""

from __future__ import annotations

import ipaddress

import pytest

from cpmv.errors import CpmvError
from cpmv.serve.addresses import Domains, check_addresses, is_public, parse_url, read_networks
from cpmv.serve.errors import ApiError

PRIVATE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200",
    "168.63.129.16", "224.0.0.1", "255.255.255.255", "198.18.0.1", "240.0.0.1", "192.0.0.192",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "::127.0.0.1", "::a9fe:a9fe",
]  # fmt: skip
PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", PRIVATE)
def test_inward_addresses_are_refused_in_every_form(address: str) -> None:
    with pytest.raises(ApiError) as refusal:
        check_addresses([address], [])
    assert refusal.value.status == 403


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert check_addresses([address], []) == [address]


def test_one_inward_address_among_public_ones_spoils_the_name() -> None:
    with pytest.raises(ApiError):
        check_addresses(["8.8.8.8", "10.0.0.1"], [])


def test_a_network_that_the_operator_named_is_allowed_and_no_other() -> None:
    networks = read_networks(["10.1.0.0/16", "::1/128"])
    assert check_addresses(["10.1.2.3", "::1"], networks)
    for other in ("10.2.0.1", "127.0.0.1", "::ffff:10.2.0.1"):
        with pytest.raises(ApiError):
            check_addresses([other], networks)
    with pytest.raises(CpmvError, match="10.0.0.0/8"):
        read_networks(["ten"])


def test_only_listed_hosts_schemes_and_ports_pass() -> None:
    domains = Domains(["example.com", ".cdn.org", "http://minio:9000", "*.star.net"])
    for url in ("https://example.com/a.png", "https://EXAMPLE.com./a", "https://a.b.cdn.org/x?y", "https://cdn.org/",
                "http://minio:9000/x", "https://example.com:443/", "https://a.star.net/"):  # fmt: skip
        domains.check(url)
    for url in ("http://example.com/", "https://example.com:8443/", "https://notexample.com/", "https://evilcdn.org/",
                "https://example.com.evil.org/", "https://sub.example.com/", "http://minio/", "https://minio:9000/",
                "https://127.0.0.1/", "https://[::1]/", "https://2130706433/", "https://0x7f.1/"):  # fmt: skip
        with pytest.raises(ApiError) as refusal:
            domains.check(url)
        assert refusal.value.status == 403


@pytest.mark.parametrize(
    "url",
    ["https://example.com@evil.org/", "https://user:pw@example.com/", "https://example.com\\@evil.org/",
     "https://exa mple.com/", "https://example.com/\r\nHost: x", "https://example.com:99999/", "https:///x",
     "ftp://example.com/", "gopher://example.com/", "https://[::1/", "https://exam\u2100ple.com/",
     "https://example.com/" + "a" * 9000, "https://ex%61mple.com/", "https://example.com/ü"],
)  # fmt: skip
def test_urls_that_parsers_read_differently_are_refused(url: str) -> None:
    with pytest.raises(ApiError) as refusal:
        Domains(["example.com", "evil.org"]).check(url)
    assert refusal.value.status in (400, 403)


def test_a_url_is_taken_apart() -> None:
    target = parse_url("https://Example.com:8443/a/b?c=d#frag")
    assert (target.host, target.port, target.path) == ("example.com", 8443, "/a/b?c=d")
    assert target.authority == "example.com:8443"
    assert parse_url("https://bücher.example/").host == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    "entry", ["", "https://", "ftp://x.org", "a b", "example.com/path", "u@example.com", "x:99999"]
)
def test_a_list_entry_that_is_no_domain_is_refused(entry: str) -> None:
    with pytest.raises(CpmvError):
        Domains([entry])


def test_no_private_range_counts_as_public() -> None:
    for network in ("10.0.0.0/8", "192.168.0.0/16", "fc00::/7", "fe80::/10", "127.0.0.0/8", "100.64.0.0/10"):
        first = ipaddress.ip_network(network)[1]
        assert not is_public(first)
