"""Rules that a namespace holds and the walk does not follow: other families, other hooks."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshnet.model.snapshot import Dump

#: Families of nf_tables whose hooks lie before or beside those that the walk knows.
_BESIDE = {"netdev": "at the interface", "bridge": "in a bridge", "arp": "for ARP"}
_SIGNS = ('"netdev"', '"bridge"', '"arp"', '"ingress"', '"egress"', '"flowtable"')
_EARLY = ("ingress", "egress")


def unseen_tables(dumps: Iterable[Dump]) -> list[str]:
    """A sentence for each table or chain of ``dumps`` whose rules are not followed."""
    found: list[str] = []
    for dump in dumps:
        if not dump.family and any(sign in dump.text for sign in _SIGNS):
            found += _listed(dump.text)
    return list(dict.fromkeys(found))


def _listed(text: str) -> list[str]:
    import json

    found = []
    try:
        for item in json.loads(text)["nftables"]:
            ((kind, body),) = item.items()
            family, table = body.get("family", ""), body.get("table", "")
            if kind == "chain" and family in _BESIDE and body.get("hook"):
                where = f"{family} {table} {body['name']}"
                found.append(f"not modelled: chain {where}, which is run {_BESIDE[family]}")
            elif kind == "chain" and body.get("hook") in _EARLY:
                where = f"{family} {table} {body['name']}"
                found.append(f"not modelled: chain {where}, at hook {body['hook']}")
            elif kind == "flowtable":
                where = f"{family} {table} {body['name']}"
                found.append(f"not modelled: flowtable {where}: later packets pass rules by")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return found
    return found
