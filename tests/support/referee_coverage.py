"""What the referee has seen: each kind of match true and false, each verdict, each target."""

from __future__ import annotations

from collections import Counter
from typing import Any

from meshnet.model.match import Match
from meshnet.model.packet import Field
from meshnet.model.rule import Kind
from meshnet.model.verdict import Journey, Place, Verdict
from meshnet.reason.evaluate import View
from meshnet.reason.fates import Tree

#: A verdict is seen often enough from this share of the packets on.
SHARE = 0.05
#: So often at least each match was true and false, and each target taken, in each language.
LEAST = 10
_LANGUAGES = {"legacy": "iptables", "nft-compat": "iptables", "nft": "nft"}
_MASKED = (Field.MARK, Field.CTMARK)


class Coverage:
    """Counts of what packets met; agreeing ones only."""

    def __init__(self) -> None:
        self.packets: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.matches: Counter[tuple[str, str, bool]] = Counter()
        self.targets: Counter[tuple[str, str]] = Counter()
        self.rules: Counter[str] = Counter()
        self.rulesets: Counter[str] = Counter()
        #: Packets that were held against the walk at prerouting only.
        self.lost = 0
        #: Packets that met a chain of nat, which is asked for a connection's first one only.
        self.nat = 0
        #: Disagreements that did not come again.
        self.fleeting: list[str] = []
        self.setup = ""

    def add(self, tree: Tree, journey: Journey, hook: str, path: set[Place]) -> None:
        """A packet about whose way the two agree: the kernel reported the rules in ``path``.

        Where the dumps leave several ways open, only these count.
        """
        self.packets[f"{self.setup} {hook}"] += 1
        self.verdicts[journey.verdict.value] += 1
        self.rules["forked" if tree.forked else "one way"] += 1
        for stretch in tree.all_stretches():
            view = View(stretch.at.state, stretch.at.frames[-1][0].native)
            for step in stretch.steps:
                rule = step.rule
                if rule is None or step.held is None or rule.opaque:
                    continue
                if tree.forked and not (step.held and step.place in path):
                    continue
                language = _LANGUAGES[step.place.backend]
                if step.held:
                    self.rules[step.place.backend] += 1
                    if rule.target is not None:
                        self.targets[language, rule.target.kind.value] += 1
                    for match in rule.matches:
                        self.matches[language, kind_of(match), True] += 1
                elif rule.family is None or rule.family is view.packet.family:
                    failed = [m for m in rule.matches if view.ask(m) is not True]
                    if len(failed) == 1:
                        # The kernel did not report the rule: this match alone can be why.
                        self.matches[language, kind_of(failed[0]), False] += 1

    @property
    def total(self) -> int:
        """The packets that were judged."""
        return sum(self.packets.values())

    def shortfalls(self) -> list[str]:
        """What was seen too seldom, one sentence each."""
        found = []
        if self.nat < self.total / 3:
            found.append(f"{self.nat} of {self.total} packets met a chain of nat")
        if self.lost > self.total / 50:
            found.append(f"{self.lost} of {self.total} packets were not followed to their end")
        if len(self.fleeting) > self.total / 1000:
            found.append(f"{len(self.fleeting)} disagreements did not come again")
        for verdict in Verdict:
            seen = self.verdicts[verdict.value]
            if seen < SHARE * self.total:
                found.append(f"verdict {verdict.value}: {seen} of {self.total} packets")
        for language in ("iptables", "nft"):
            for kind in kinds():
                for held in (True, False):
                    if (seen := self.matches[language, kind, held]) < LEAST:
                        found.append(f"{language}: {kind} was {held} {seen} times")
            for target in Kind:
                if (seen := self.targets[language, target.value]) < LEAST:
                    found.append(f"{language}: {target.value} was taken {seen} times")
        return found

    def report(self) -> str:
        """All counts, for people."""
        rulesets = sum(self.rulesets.values())
        lines = [f"{self.total} packets, {rulesets} rulesets"]
        lines[0] += f"; met nat: {self.nat}, held against the walk at prerouting only: {self.lost}"
        lines += [f"did not come again: {text}" for text in self.fleeting]
        lines.append(_told("packets", self.packets))
        lines.append(_told("rulesets", self.rulesets))
        shares = {
            k: f"{n} ({100 * n / max(1, self.total):.1f} %)" for k, n in self.verdicts.items()
        }
        lines.append(_told("verdicts", shares))
        lines.append(_told("rules met", self.rules))
        for language in ("iptables", "nft"):
            targets = {t: n for (where, t), n in self.targets.items() if where == language}
            lines.append(_told(f"{language} targets", targets))
            both = {
                kind: f"{self.matches[language, kind, True]}/{self.matches[language, kind, False]}"
                for kind in kinds()
            }
            lines.append(_told(f"{language} matches true/false", both))
        return "\n".join(lines)


def _told(name: str, counts: dict[str, Any]) -> str:
    return f"{name}: " + ", ".join(f"{key} {counts[key]}" for key in sorted(counts))


def kind_of(match: Match) -> str:
    """What a match is counted as: "not mark/mask"."""
    masked = "/mask" if match.mask is not None else ""
    return f"{'not ' if match.negated else ''}{match.field.label}{masked}"


def kinds() -> list[str]:
    """Every kind there is."""
    found = [f"{no}{field.label}" for field in Field for no in ("", "not ")]
    return found + [f"{no}{field.label}/mask" for field in _MASKED for no in ("", "not ")]
