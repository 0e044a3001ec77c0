"""Our rules held against their profile's, and silence where all is as it should be."""

from __future__ import annotations

import pytest

from tests.support import watched as support
from tests.support.cases import BACKENDS, CASES
from tests.support.watched import BOTH, ON, STRICT, Watched

watched = support.watched
every_backend = pytest.mark.parametrize("backend", BACKENDS)
#: What is a defect where IPv6 is up, and was asked for: no rules for IPv6, or by Istio's nft form.
LEAVES_IPV6 = {"MN130"}


@every_backend
def test_every_case_is_silent(watched: Watched, backend: str) -> None:
    """A sound proxy under each configuration; IPv6 goes past it where it was not asked for."""
    watched.settle(listen=[(6, "tcp", "::", 8080)])
    uid = 0
    told = {}
    for name, arguments in CASES.items():
        wanted = 3 if name == "two-proxies" else 1337
        if uid != wanted:
            if uid:
                watched.people.pop().end()
            uid = wanted
            watched.proxy(uid=uid)
        watched.init(*arguments, backend=backend)
        codes = watched.codes()
        if "strict" not in name and "on" not in arguments:
            codes -= LEAVES_IPV6
            if backend == "nft" and "TPROXY" in arguments:
                # Its rules hand IPv6 to the proxy, and no policy rule of IPv6 was made.
                codes -= {"MN160"}
        told[name] = codes
    told["strict-ipv4"] -= LEAVES_IPV6
    assert {name: codes for name, codes in told.items() if codes} == {}


def evidence(pod: Watched, code: str) -> str:
    """All that is said with the findings of one code."""
    found = [f for f in pod.all_findings() if f.code == code]
    return "\n".join(line for f in found for line in (f.summary, *f.evidence))


@pytest.mark.parametrize("backend", ["legacy", "nft-compat"])
def test_mn112(watched: Watched, backend: str) -> None:
    """The rule that lets the proxy pass, put back behind the one that captures."""
    watched.proxy()
    watched.init(*BOTH, *ON, backend=backend)
    assert watched.codes() == set()
    program = {"legacy": "iptables-legacy", "nft-compat": "iptables-nft"}[backend]
    rule = ("ISTIO_OUTPUT", "-m", "owner", "--uid-owner", "1337", "-j", "RETURN")
    watched.pod.run(program, "-t", "nat", "-D", *rule)
    said = evidence(watched, "MN113")
    assert "1 rule missing" in said and "uid 1337: return" in said
    watched.pod.run(program, "-t", "nat", "-A", *rule)
    said = evidence(watched, "MN112")
    assert "1 rule of" in said and "uid 1337: return" in said
    assert evidence(watched, "MN113") == ""
    watched.init(*BOTH, *ON, backend=backend)
    assert watched.codes() == set()


def test_mn112_nft(watched: Watched) -> None:
    watched.proxy()
    watched.init(*BOTH, *ON, backend="nft")
    assert watched.codes() == set()
    chain = "inet istio-proxy-nat istio-output"
    for line in watched.pod.run("nft", "-a", "list", "chain", *chain.split()).stdout.splitlines():
        if "skuid 1337" in line and "oifname" not in line:
            handle = line.rpartition("handle ")[2]
    watched.pod.run("nft", f"delete rule {chain} handle {handle}")
    assert "uid 1337: return" in evidence(watched, "MN113")
    watched.pod.run("nft", f"add rule {chain} meta skuid 1337 counter return")
    assert "uid 1337: return" in evidence(watched, "MN112")
    assert evidence(watched, "MN113") == ""


@every_backend
@pytest.mark.parametrize("profile", [ON, STRICT], ids=["istio", "strict"])
def test_mn113_extra(watched: Watched, backend: str, profile: tuple[str, ...]) -> None:
    """A rule that somebody put into a chain of ours."""
    watched.proxy()
    watched.init(*BOTH, *profile, backend=backend)
    assert watched.codes() == set()
    prefix = "ISTIO" if profile is ON else "MESHNET"
    if backend == "nft":
        table = "istio-proxy-nat" if profile is ON else "meshnet-nat"
        where = f"inet {table} {prefix.lower()}-output"
        watched.pod.run("nft", f"insert rule {where} tcp dport 6379 counter accept")
    else:
        program = {"legacy": "iptables-legacy", "nft-compat": "iptables-nft"}[backend]
        rule = ("-p", "tcp", "--dport", "6379", "-j", "ACCEPT")
        watched.pod.run(program, "-t", "nat", "-I", f"{prefix}_OUTPUT", *rule)
    assert "6379" in evidence(watched, "MN113")
    # It is not ours, and it decides.
    assert "6379" in evidence(watched, "MN110")


def test_mn113_altered(watched: Watched) -> None:
    """A base chain of ours at another priority."""
    watched.proxy()
    watched.init(*BOTH, *ON, backend="nft")
    listing = watched.pod.run("nft", "-s", "list", "table", "inet", "istio-proxy-nat").stdout
    moved = listing.replace("hook output priority -100", "hook output priority 50")
    assert moved != listing
    watched.pod.run("nft", "delete table inet istio-proxy-nat")
    watched.pod.run("nft", "-f", "-", text=moved)
    assert "output is at output 50" in evidence(watched, "MN113")
