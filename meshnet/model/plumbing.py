"""Kernel objects beside rules that a capture needs, as values."""

from __future__ import annotations

from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family

#: The protocol number that our policy rules, routes and addresses bear, where the
#: kernel has such a field (rules since 4.17, addresses since 5.18): it makes them ours.
PROTOCOL = 155


@dataclass(frozen=True)
class LoopbackAddress:
    """An address of full prefix length on lo."""

    family: Family
    address: int

    def __str__(self) -> str:
        from meshnet.model.address import show_address

        text = show_address(self.family, self.address)
        bits = 32 if self.family is Family.IP else 128
        return f"ip address add {text}/{bits} dev lo"


@dataclass(frozen=True)
class LocalRoute:
    """``local default dev lo`` in ``table``: what is looked up there is for this namespace."""

    family: Family
    table: int

    def __str__(self) -> str:
        return (
            f"{_ip(self.family)} route add local default dev lo table {self.table} proto {PROTOCOL}"
        )


@dataclass(frozen=True)
class PolicyRule:
    """Packets with ``mark`` are looked up in ``table``."""

    family: Family
    mark: int
    table: int

    def __str__(self) -> str:
        rule = f"fwmark {self.mark} lookup {self.table} protocol {PROTOCOL}"
        return f"{_ip(self.family)} rule add {rule}"


Part = LoopbackAddress | LocalRoute | PolicyRule


def _ip(family: Family) -> str:
    return "ip -6" if family is Family.IP6 else "ip"
