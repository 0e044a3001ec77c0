"""What is not ours keeps its bytes and its place, whatever we do beside it."""

from __future__ import annotations

import pytest

from tests.support.cases import BACKENDS, CASES, DEFAULT, TPROXY
from tests.support.namespaces import Namespace

DOCKER_AND_CNI = """\
*nat
:DOCKER - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-DN-0123456789 - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -o docker0 -j RETURN
-A OUTPUT -m comment --comment "quoted \\"text\\", and a \\\\ backslash" -j ACCEPT
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 8081 -j CNI-DN-0123456789
-A CNI-DN-0123456789 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.88.0.3:80
COMMIT
*mangle
:FOREIGN_MARKS - [0:0]
-A PREROUTING -i eth5 -j RETURN
-A PREROUTING -j FOREIGN_MARKS
-A OUTPUT -p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xff
-A FOREIGN_MARKS -p tcp -m mark --mark 0x539 -j CONNMARK --save-mark
COMMIT
*filter
:INPUT DROP [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT
COMMIT
"""
NFT_TABLE = """\
table inet somebody {
  set names { type ipv4_addr; elements = { 192.0.2.7 } }
  counter hits { }
  chain output {
    type nat hook output priority -90; policy accept;
    ip daddr @names counter name hits return
    meta skuid 12 counter
  }
}
table ip6 else {
  chain c { ip6 daddr ::1 accept; }
}
table netdev far {
}
"""
LOADERS = {"nft-compat": "iptables-nft-restore", "legacy": "iptables-legacy-restore"}


def load_foreign(netns: Namespace, backend: str, rules: str = DOCKER_AND_CNI) -> None:
    netns.run(LOADERS.get(backend, "iptables-nft-restore"), text=rules)
    netns.run("nft", "-f", "-", text=NFT_TABLE)


def only_new(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The lines that came to be; fails when one of before is gone or has another place."""
    came = []
    for key, text in before.items():
        rows = iter(after[key].splitlines())
        for row in text.splitlines():
            for found in rows:
                if found == row:
                    break
                came.append(found)
            else:
                raise AssertionError(f"{key}: lost or moved: {row!r}\n{after[key]}")
        came += list(rows)
    return came


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "case",
    ["classic", "default", "dns", "tproxy-both-families", "excluded-interfaces",
     "virtual-interfaces", "virtual-without-blocks", "strict-everything", "strict-refused"],
)  # fmt: skip
def test_foreign_rules_keep_their_bytes_and_places(
    netns: Namespace, case: str, backend: str
) -> None:
    load_foreign(netns, backend)
    before = netns.everything()
    arguments = (*CASES[case], "--backend", backend)
    netns.init(*arguments)
    applied = netns.everything()
    assert only_new(before, applied)
    assert "nothing to change" in netns.init(*arguments).stderr
    netns.init("--cleanup-only")
    after = netns.everything()
    assert {k: after[k] for k in before} == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_foreign_rules_outlive_changes_of_the_spec(netns: Namespace, backend: str) -> None:
    load_foreign(netns, backend)
    before = netns.everything()
    for case in ("strict-everything", "tproxy-both-families", "dns", "drop-invalid", "classic"):
        netns.init(*CASES[case], "--backend", backend)
        only_new(before, netns.everything())
    netns.init("--cleanup-only")
    # Base chains that an earlier spec needed may stay, empty (docs/limitations.md).
    left = only_new(before, netns.everything())
    assert not [row for row in left if row.startswith("-A") or "ISTIO" in row or "istio" in row]


TWINS = {
    "an interface of ours, in one chain": (
        "*nat\n-A PREROUTING -i eth7 -j RETURN\nCOMMIT\n", CASES["excluded-interfaces"]),
    "an interface of ours, in both chains": (
        "*nat\n-A PREROUTING -i eth7 -j RETURN\n-A OUTPUT -o eth7 -j RETURN\nCOMMIT\n",
        CASES["excluded-interfaces"]),
    "the same two interfaces": (
        "*nat\n-A PREROUTING -i eth7 -j RETURN\n-A PREROUTING -i eth8 -j RETURN\n"
        "-A OUTPUT -o eth7 -j RETURN\n-A OUTPUT -o eth8 -j RETURN\nCOMMIT\n",
        CASES["excluded-interfaces"]),
    "a pair like an exclusion, and none asked for": (
        "*nat\n-A PREROUTING -i eth7 -j RETURN\n-A OUTPUT -o eth7 -j RETURN\nCOMMIT\n", DEFAULT),
    "such a pair, and no inbound jump": (
        "*nat\n-A PREROUTING -i eth7 -j RETURN\n-A OUTPUT -o eth7 -j RETURN\nCOMMIT\n",
        CASES["nothing"]),
    "a virtual interface's RETURN": (
        "*nat\n-A PREROUTING -i eth7 -j RETURN\n-A PREROUTING -p udp -j ACCEPT\nCOMMIT\n",
        CASES["virtual-interfaces"]),
    "a RETURN at the top": (
        "*nat\n-A PREROUTING -i eth7 -j RETURN\nCOMMIT\n", CASES["virtual-without-blocks"]),
    "every mark of TPROXY": (
        "*mangle\n-A PREROUTING -p tcp -m mark --mark 1337 -j CONNMARK --save-mark\n"
        "-A PREROUTING -p udp -j ACCEPT\n"
        "-A OUTPUT -p tcp -o lo -m mark --mark 1337 -j RETURN\n"
        "-A OUTPUT ! -d 127.0.0.1/32 -p tcp -o lo -m owner --uid-owner 1337 "
        "-j MARK --set-mark 1338\n"
        "-A OUTPUT -p tcp -m connmark --mark 1337 -j CONNMARK --restore-mark\n"
        "-A OUTPUT -j MARK --set-mark 5\nCOMMIT\n", TPROXY),
    "TPROXY's marks, and no TPROXY": (
        "*mangle\n-A PREROUTING -p tcp -m mark --mark 1337 -j CONNMARK --save-mark\nCOMMIT\n",
        DEFAULT),
    "TPROXY's interface, in mangle only": (
        "*mangle\n-A PREROUTING -i eth7 -j RETURN\n-A OUTPUT -o eth7 -j RETURN\nCOMMIT\n",
        (*TPROXY, "-c", "eth8")),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
@pytest.mark.parametrize("twin", TWINS)
def test_a_foreign_twin_keeps_its_place(netns: Namespace, twin: str, backend: str) -> None:
    rules, arguments = TWINS[twin]
    # A counter tells the twins apart: theirs has seen packets.
    counted = "\n".join(f"[7:420] {r}" if r.startswith("-A") else r for r in rules.splitlines())
    netns.run(LOADERS[backend], "-c", text=f"{counted}\n")
    save = (LOADERS[backend].replace("restore", "save"), "-c")
    marks = [r for r in netns.run(*save).stdout.splitlines() if r.startswith("[7:420]")]
    before = netns.everything()
    for _ in range(2):
        netns.init(*arguments, "--backend", backend)
    only_new(before, netns.everything())
    assert [r for r in netns.run(*save).stdout.splitlines() if r.startswith("[7:420]")] == marks
    netns.init("--cleanup-only")
    after = netns.everything()
    assert {k: after[k] for k in before} == before
    assert [r for r in netns.run(*save).stdout.splitlines() if r.startswith("[7:420]")] == marks


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
def test_a_foreign_rule_between_ours_stays_between(netns: Namespace, backend: str) -> None:
    program = "iptables-nft" if backend == "nft-compat" else "iptables-legacy"
    netns.init(*DEFAULT, "--backend", backend)
    netns.run(program, "-t", "nat", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT")
    netns.run(program, "-t", "nat", "-I", "OUTPUT", "1", "-p", "icmp", "-j", "ACCEPT")
    for case in ("dns", "strict", "excluded-interfaces", "default"):
        netns.init(*CASES[case], "--backend", backend)
        rows = netns.run(program, "-t", "nat", "-S", "OUTPUT").stdout.splitlines()
        jump = next(i for i, r in enumerate(rows) if r.endswith("_OUTPUT"))
        assert rows[1] == "-A OUTPUT -p icmp -j ACCEPT"
        assert rows[-1] == "-A OUTPUT -p udp -j ACCEPT"
        assert 1 < jump < len(rows) - 1


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
def test_a_foreign_jump_to_our_chain_does_not_keep_it(netns: Namespace, backend: str) -> None:
    """A rule that we cannot read, and that goes to a chain of ours, goes with it."""
    program = "iptables-nft" if backend == "nft-compat" else "iptables-legacy"
    netns.init(*DEFAULT, "--backend", backend)
    netns.run(program, "-t", "nat", "-N", "THEIRS")
    netns.run(program, "-t", "nat", "-A", "THEIRS", "-m", "statistic", "--mode", "random",
              "--probability", "0.5", "-j", "ISTIO_OUTPUT")  # fmt: skip
    netns.init("--cleanup-only")
    rows = netns.run(program, "-t", "nat", "-S").stdout
    assert "ISTIO" not in rows and "-N THEIRS" in rows


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
def test_a_foreign_comment_like_ours_changes_nothing(netns: Namespace, backend: str) -> None:
    program = "iptables-nft" if backend == "nft-compat" else "iptables-legacy"
    netns.run(program, "-t", "nat", "-A", "OUTPUT", "-p", "icmp", "-m", "comment",
              "--comment", "meshnet:theirs", "-j", "ACCEPT")  # fmt: skip
    before = netns.everything()
    for _ in range(2):
        netns.init(*CASES["tproxy-both-families"], "--backend", backend)
    netns.init("--cleanup-only")
    after = netns.everything()
    assert {k: after[k] for k in before} == before


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
def test_comments_that_came_half_way_do_not_hide_the_rest(netns: Namespace, backend: str) -> None:
    """One commit of a run that adds comments went through; the next run finds the others."""
    before = netns.everything()
    arguments = (*CASES["tproxy-both-families"], "--backend", backend)
    netns.init(*arguments)
    plan = netns.init(*arguments, "--comments", "--dry-run").stdout
    first = plan[: plan.index("COMMIT\n") + len("COMMIT\n")]
    netns.run(LOADERS[backend], "--noflush", text=first)
    netns.init(*arguments, "--comments")
    assert "nothing to change" in netns.init(*arguments, "--comments").stderr
    assert netns.dump(LOADERS[backend].replace("restore", "save")).count("0x53a") == 3
    netns.init("--cleanup-only")
    after = netns.everything()
    rows = [row for key in before for row in after[key].splitlines() if row.startswith("-A")]
    assert rows == []


LATECOMERS = {
    "a foreign interface in mangle OUTPUT": [("mangle", "-A", "OUTPUT", "-o", "eth77")],
    "two foreign ones in a chain without our jump": [
        ("nat", "-I", "PREROUTING", "-i", "eth88"),
        ("nat", "-I", "PREROUTING", "-i", "eth89"),
    ],
    "before and behind ours": [
        ("mangle", "-I", "OUTPUT", "-o", "eth88"),
        ("mangle", "-A", "OUTPUT", "-o", "eth89"),
        ("nat", "-I", "OUTPUT", "-o", "eth88"),
    ],
}


@pytest.mark.parametrize("backend", ["nft-compat", "legacy"])
@pytest.mark.parametrize("case", ["tproxy-both-families", "excluded-interfaces", "interfaces-only"])
@pytest.mark.parametrize("late", LATECOMERS)
def test_foreign_interfaces_that_come_later_do_not_hide_ours(
    netns: Namespace, late: str, case: str, backend: str
) -> None:
    only = ("-p", "15001", "-u", "1337", "-b", "", "-c", "eth7,eth8")
    arguments = (*CASES.get(case, only), "--backend", backend)
    netns.init(*arguments)
    program = "iptables-nft" if backend == "nft-compat" else "iptables-legacy"
    for table, verb, chain, option, name in LATECOMERS[late]:
        netns.run(program, "-t", table, verb, chain, option, name, "-j", "RETURN")
    assert "nothing to change" in netns.init(*arguments).stderr
    netns.init("--cleanup-only")
    dump = netns.dump(LOADERS[backend].replace("restore", "save"))
    rows = [row for row in dump.splitlines() if row.startswith("-A")]
    assert len(rows) == len(LATECOMERS[late])
    assert all("eth77" in row or "eth88" in row or "eth89" in row for row in rows)
