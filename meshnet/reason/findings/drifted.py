"""MN112 and MN113: our rules held against those that their profile would have made."""

from __future__ import annotations

from meshnet.model.drift import AlteredChain, MovedRule, PlacedRule
from meshnet.model.finding import Finding
from meshnet.reason.findings.report import report
from meshnet.reason.findings.scene import Scene
from meshnet.reason.words import rule_in_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def moved(scene: Scene) -> Iterator[Finding]:
    """MN112: rules that are there, and in another place."""
    for backend, found in scene.drifts.items():
        if found.moved:
            yield report(
                "MN112",
                f"{_count(len(found.moved), 'rule')} of {backend} "
                f"out of the order that profile {found.profile.value} has them in",
                [_moved(rule) for rule in found.moved],
            )


def changed(scene: Scene) -> Iterator[Finding]:
    """MN113: rules missing, rules extra, and base chains of ours at another hook."""
    for backend, found in scene.drifts.items():
        parts = [
            _count(len(found.missing), "rule missing", "rules missing"),
            _count(len(found.extra), "rule extra", "rules extra"),
            _count(len(found.altered), "chain altered", "chains altered"),
        ]
        said = ", ".join(part for part in parts if part)
        if said:
            yield report(
                "MN113",
                f"{backend}: {said} against profile {found.profile.value}, the closest one",
                [
                    *(f"missing: {_placed(rule)}" for rule in found.missing),
                    *(f"extra: {_placed(rule)}" for rule in found.extra),
                    *(_altered(chain) for chain in found.altered),
                ],
            )


def _count(number: int, one: str, several: str = "") -> str:
    return "" if not number else f"{number} {one if number == 1 else several or one + 's'}"


def _placed(rule: PlacedRule) -> str:
    where = f"{rule.family.value} {rule.table} {rule.chain} {rule.position}"
    why = f" ({rule.rule.why})" if rule.rule.why else ""
    return f"{where}: {rule_in_words(rule.rule, rule.family)}{why}"


def _moved(rule: MovedRule) -> str:
    where = f"{rule.family.value} {rule.table} {rule.chain}"
    words = rule_in_words(rule.rule, rule.family)
    return f"{where} {rule.before} belongs to {rule.after}: {words}"


def _altered(chain: AlteredChain) -> str:
    held, wanted = chain.held, chain.wanted
    return (
        f"altered: {chain.family.value} {chain.table} {held.name} is at {_hook(held.hook)} "
        f"{held.priority}, policy {held.policy}; "
        f"belongs to {_hook(wanted.hook)} {wanted.priority}, policy {wanted.policy}"
    )


def _hook(name: str) -> str:
    return name or "no hook"
