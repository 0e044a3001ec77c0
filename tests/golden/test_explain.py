"""What ``meshnet explain`` prints, to the letter, at 100 columns.

The goldens are written anew by ``MESHNET_UPDATE_GOLDENS=1 make test ARGS=tests/golden``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.explaining import document, explained

DATA = Path(__file__).parent / "data"
LEAKING = ("--from", str(DATA / "snapshots" / "leaking.json"))
SOUND = ("--from", str(DATA / "snapshots" / "sound.json"))
FOREIGN = ("--ruleset", str(DATA / "rulesets" / "foreign.save"), "--out", "eth0")
WORLD = ("tcp", "93.184.216.34:443")
SPEC = ("--spec", "-p 15001 -u 1337 -b * -i 10.0.0.0/8 -d 9090 --ipv6 on")
NATIVE = ("--spec", f"{SPEC[1]} --backend nft --profile strict --ipv6 capture")
OFF = ("--spec", "-p 15001 -u 1337 -b * -i * --ipv6 off")
V6 = ("tcp", "[2001:db8::1]:443")
#: Each: the arguments, the exit code.
ROWS: dict[str, tuple[tuple[str, ...], int]] = {
    "direct": ((*LEAKING, "--uid", "1000", *WORLD), 0),
    "direct.verbose": ((*LEAKING, "--uid", "1000", "-v", *WORLD), 0),
    "captured": ((*LEAKING, "--uid", "1000", "tcp", "10.1.2.3:80"), 0),
    "followed": ((*LEAKING, "--uid", "1000", "--follow", "tcp", "10.1.2.3:80"), 0),
    "inbound": (
        (*LEAKING, "--in", "eth0", "--src", "10.244.9.2:5000", "--follow", "tcp",
         "10.244.0.7:8080"), 0,
    ),
    "bypassed": ((*LEAKING, "--uid", "1337", "--expect", "bypassed", "tcp", "10.1.2.3:80"), 0),
    "loopback": ((*LEAKING, "--uid", "1000", "tcp", "127.0.0.1:8080"), 0),
    "leaking6": (
        (*LEAKING, "--uid", "1000", "--expect", "captured", "tcp", "[fd00:10::99]:443"), 3,
    ),
    "sound6": ((*SOUND, "--uid", "1000", "--out", "eth0", *V6), 0),
    "udp": ((*SOUND, "--uid", "1000", "udp", "93.184.216.34:443"), 0),
    "icmp": ((*SOUND, "--uid", "0", "icmp", "93.184.216.34"), 0),
    "untold": ((*SPEC, "--out", "eth0", "--expect", "captured", "tcp", "10.1.2.3:80"), 3),
    "native": ((*NATIVE, "--uid", "1000", "--out", "eth0", "tcp", "10.1.2.3:80"), 0),
    "off6": ((*OFF, "--uid", "1000", "--out", "eth0", *V6), 0),
    "excluded": ((*SPEC, "--in", "eth0", "tcp", "10.1.2.3:9090"), 0),
    "maybe": ((*FOREIGN, "--uid", "1000", "tcp", "192.0.2.5:443"), 0),
    "beside": ((*FOREIGN, "--uid", "1000", "tcp", "10.1.2.3:443"), 0),
    "foreign": ((*FOREIGN, "--uid", "1000", "tcp", "10.1.2.3:8443"), 0),
    "dropped": ((*FOREIGN, "--uid", "1337", "tcp", "198.51.100.9:443"), 0),
}  # fmt: skip


def compared(name: str, found: str) -> None:
    golden = DATA / "explanation" / f"{name}.txt"
    if os.environ.get("MESHNET_UPDATE_GOLDENS"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text()


@pytest.mark.parametrize("name", ROWS)
def test_an_explanation_prints_its_golden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA.parent)
    arguments, code = ROWS[name]
    short = tuple(a.replace(f"{DATA}/", "data/") for a in arguments)
    found = explained(*short, code=code).stdout
    compared(name, found)
    assert max(len(line) for line in found.splitlines()) <= 100


def test_the_document_of_an_explanation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DATA.parent)
    arguments = ("--from", "data/snapshots/leaking.json", "--uid", "1000", *WORLD)
    document(*arguments)
    compared("direct.json", explained(*arguments, "-o", "json").stdout)
