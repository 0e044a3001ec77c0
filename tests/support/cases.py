"""Configurations that many tests go through: what a name stands for, as arguments."""

from __future__ import annotations

BACKENDS = ("nft-compat", "nft", "legacy")
PORTS = ("-p", "15001", "-z", "15006", "-u", "1337", "-g", "1337")
DEFAULT = (*PORTS, "-m", "REDIRECT", "-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020")
TPROXY = (*PORTS, "-m", "TPROXY", "-i", "*", "-b", "*")
DNS = (*DEFAULT, "--redirect-dns", "--dns-server", "10.1.0.9", "--dns-server", "fd01::9")
ON = ("--ipv6", "on")
STRICT = ("--profile", "strict")

CASES: dict[str, tuple[str, ...]] = {
    "classic": ("-p", "15001", "-u", "1337"),
    "nothing": PORTS,
    "default": DEFAULT,
    "both-families": (*DEFAULT, *ON),
    "tproxy": TPROXY,
    "tproxy-both-families": (*TPROXY, *ON, "-c", "eth7,eth8"),
    "tproxy-without-ports": (*PORTS, "-m", "TPROXY", "-i", "*", "-b", ""),
    "dns": (*DNS, *ON),
    "dns-everywhere": (*DEFAULT, "--redirect-dns", "--capture-all-dns", *ON),
    "two-proxies": (
        *PORTS[:4], "-u", "3,4", "-g", "1,2", "-b", "*", "-i", "10.0.0.0/8,fd00::/8", *ON
    ),
    "excluded-interfaces": (*DEFAULT, "-c", "eth7,eth8"),
    "virtual-interfaces": (*DEFAULT, "-k", "eth7,eth8"),
    "virtual-and-blocks": (
        *PORTS, "-b", "80,443", "-k", "eth7", "-i", "10.0.0.0/8", "-x", "10.9.0.0/16"
    ),
    "virtual-without-blocks": (*PORTS, "-k", "eth7"),
    "ports": (*PORTS, "-b", "80,8080", "-q", "443,8443", "-o", "22"),
    "drop-invalid": (*DEFAULT, "--drop-invalid", *ON),
    "commented": (*DEFAULT, "--comments", "-c", "eth7"),
    "strict": (*DEFAULT, *STRICT),
    "strict-tproxy": (*TPROXY, *STRICT, "-c", "eth7"),
    "strict-virtual-only": (*PORTS, *STRICT, "-k", "eth7"),
    "strict-dns-of-one-family": (
        *TPROXY, *STRICT, "--redirect-dns", "--dns-server", "10.1.0.9"
    ),
    "strict-ipv4": (*DEFAULT, *STRICT, "--ipv6", "allow"),
    "strict-refused": (*DNS, *STRICT, "--ipv6", "drop"),
    "strict-everything": (
        *DNS, *STRICT, "-k", "eth7", "-c", "eth8", "-o", "22,1000-2000", "--drop-invalid",
        "-u", "1337,2000-2010",
    ),
}  # fmt: skip
