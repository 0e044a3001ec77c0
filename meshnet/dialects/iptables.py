"""iptables-save text: tables, chains and rules, printed and parsed.

One dump is of one family. Rules are printed as the kernel's own dump prints them, so
that a rule of ours can be deleted by its text whatever flags once made it. What the
model does not know stays behind in :attr:`Rule.opaque`, to the letter.
"""

from __future__ import annotations

from meshnet.dialects.iptables_rule import parse_rule, print_rule
from meshnet.errors import ParseError, printable
from meshnet.model.frozen import replace
from meshnet.model.packet import Family
from meshnet.model.rule import Rule
from meshnet.model.ruleset import Chain, Ruleset, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

BUILTIN = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}


def parse_save(text: str, family: Family) -> Ruleset:
    """The ruleset that ``text``, the output of iptables-save, shows.

    Counters are kept. Comment lines and blank ones are skipped; the empty text is the
    empty ruleset. Raises ParseError with the line number for anything else.
    """
    tables: list[Table] = []
    name: str | None = None
    chains: dict[str, list[tuple[str, Rule]]] = {}
    policies: dict[str, tuple[str, int, int]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if not line or line[0] == "#":
                continue
            if line[0] == "*":
                name, chains, policies = line[1:].strip(), {}, {}
            elif name is None:
                raise ParseError("outside a table")
            elif line[0] == ":":
                chain, policy, *counted = line[1:].split()
                chains[chain], policies[chain] = [], (policy, *_counters(counted))
            elif line == "COMMIT":
                tables.append(_table(family, name, chains, policies))
                name = None
            else:
                chain, spec, rule = _parse_line(line, family)
                chains[chain].append((spec, rule))
        except (ParseError, ValueError, KeyError) as e:
            raise ParseError(f"line {number}: {e}: {printable(line)}") from e
    if name is not None:
        raise ParseError(f"table {printable(name)} has no COMMIT")
    return Ruleset(tuple(tables))


def _counters(words: list[str]) -> tuple[int, int]:
    """Packets and bytes of ``[0:0]``, the last word of a chain's line; 0 where it has none."""
    if not words:
        return 0, 0
    packets, count = words[0].strip("[]").split(":")
    return int(packets), int(count)


def _parse_line(line: str, family: Family) -> tuple[str, str, Rule]:
    packets = count = 0
    if line[0] == "[":
        counters, line = line[1:].split("] ", 1)
        packets, count = (int(n) for n in counters.split(":"))
    if not line.startswith("-A "):
        raise ParseError("not a rule")
    chain, _, spec = line[3:].partition(" ")
    rule = parse_rule(spec, family)
    if packets or count:
        rule = replace(rule, packets=packets, bytes=count)
    return chain, spec, rule


def _table(
    family: Family,
    name: str,
    chains: dict[str, list[tuple[str, Rule]]],
    policies: dict[str, tuple[str, int, int]],
) -> Table:
    made = []
    for chain, rules in chains.items():
        word, packets, count = policies[chain]
        policy = word.lower()
        hook = BUILTIN.get(chain, "") if policy != "-" else ""
        known = tuple(_undeclared(spec, rule, chains.keys()) for spec, rule in rules)
        policy = policy if hook else "accept"
        made.append(Chain(chain, known, hook=hook, policy=policy, packets=packets, bytes=count))
    return Table(family, name, tuple(made))


def _undeclared(spec: str, rule: Rule, chains: Container[str]) -> Rule:
    """A "jump" to a chain that the table does not declare is an extension we do not know."""
    target = rule.target
    if target is None or not target.chain or rule.opaque or target.chain in chains:
        return rule
    return replace(rule, matches=(), target=None, opaque=spec, comment="")


def print_save(ruleset: Ruleset, counters: bool = False) -> str:
    """``ruleset``, of one family, as iptables-save prints it, without comment lines.

    Loading it with iptables-restore replaces the tables that it names.
    """
    lines: list[str] = []
    for table in ruleset.tables:
        lines.append(f"*{table.name}")
        for chain in table.chains:
            counted = f"[{chain.packets}:{chain.bytes}]" if counters else "[0:0]"
            policy = chain.policy.upper() if chain.hook else "-"
            lines.append(f":{chain.name} {policy} {counted}")
        for chain in table.chains:
            for rule in chain.rules:
                counted = f"[{rule.packets}:{rule.bytes}] " if counters else ""
                text = print_rule(rule, table.family)
                lines.append(f"{counted}-A {chain.name}{text and ' '}{text}")
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)
