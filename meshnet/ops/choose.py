"""Which backend: the one asked for, or the one that this kernel and this namespace call for."""

from __future__ import annotations

from meshnet.backends import NAMES, Backend, load_backend
from meshnet.errors import KernelLacks, RulesElsewhere
from meshnet.model.frozen import dataclass
from meshnet.model.ruleset import Ruleset

#: The backend that a value of Istio's ``--force-iptables-binary`` means.
BINARIES = {
    "iptables": "auto",
    "iptables-nft": "nft-compat",
    "iptables-legacy": "legacy",
    "ip6tables": "auto",
    "ip6tables-nft": "nft-compat",
    "ip6tables-legacy": "legacy",
}


@dataclass(frozen=True)
class Survey:
    """Every backend that works here with what it holds, and why the others do not work.

    ``hidden`` are those others that hold something of ours all the same, or may.
    """

    held: dict[str, Ruleset]
    ours: tuple[str, ...]
    unusable: dict[str, str]
    hidden: dict[str, str]


def survey(lock_wait: float) -> Survey:
    """Look at every backend. Reading costs a process only where there are tables."""
    held: dict[str, Ruleset] = {}
    unusable: dict[str, str] = {}
    hidden: dict[str, str] = {}
    ours = []
    for name in NAMES:
        backend = load_backend(name, lock_wait)
        reason = backend.probe()
        if not reason:
            try:
                held[name] = backend.read()
            except KernelLacks as e:
                reason = e.message
        if reason:
            unusable[name] = reason
            if backend.may_hold_own():
                hidden[name] = reason
        elif backend.holds_own(held[name]):
            ours.append(name)
    return Survey(held, tuple(ours), unusable, hidden)


def refuse_hidden(seen: Survey) -> None:
    """Raise KernelLacks where rules of ours are, or may be, where no program here can reach."""
    for name, reason in seen.hidden.items():
        sure = "may hold" if name == "legacy" else "holds"
        raise KernelLacks(f"backend {name} {sure} rules of ours, and cannot be read: {reason}")


def choose(asked: str, seen: Survey, migrate: bool, lock_wait: float) -> tuple[Backend, str]:
    """The backend to write with, and one sentence on why.

    Raises KernelLacks where the one asked for, or every one, cannot work here;
    RulesElsewhere where another one holds rules of ours and ``migrate`` is off.
    """
    if asked == "auto":
        name, why = _best(seen)
    else:
        name, why = asked, "it was asked for"
        if name in seen.unusable:
            usable = ", ".join(seen.held) or "none"
            raise KernelLacks(
                f"backend {name} cannot work here: {seen.unusable[name]}", f"usable here: {usable}"
            )
    elsewhere = [other for other in seen.ours if other != name]
    if elsewhere and not migrate:
        raise RulesElsewhere(
            f"backend {elsewhere[0]} holds rules of ours, and {name} would be written",
            "--migrate moves them, --cleanup-only removes them",
        )
    return load_backend(name, lock_wait), why


def _best(seen: Survey) -> tuple[str, str]:
    if not seen.held:
        reasons = "; ".join(f"{n}: {why}" for n, why in seen.unusable.items())
        raise KernelLacks(f"no backend can work here: {reasons}")
    if seen.ours:
        return seen.ours[0], "rules of ours are there already"
    for name in ("legacy", "nft-compat"):
        if name in seen.held and _has_rules(seen.held[name]):
            return name, "this namespace already has rules there"
    name = next(n for n in NAMES if n in seen.held)
    if name == NAMES[0]:
        return name, "nothing here speaks against it, and iptables shows its rules"
    return name, f"{NAMES[0]} cannot work here: {seen.unusable[NAMES[0]]}"


def _has_rules(held: Ruleset) -> bool:
    return any(True for _ in held.rules())
