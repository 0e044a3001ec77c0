"""``meshnet prove``: whether something is so for every packet."""

from __future__ import annotations

import click

from meshnet.cli.source_options import ruleset_option, spec_option
from meshnet.cli.target_options import from_option, output_option, print_json, timeout_option
from meshnet.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.proof import Proof


@click.command()
@click.argument("words", nargs=-1, metavar="[TARGET|FILE] [EXPR]...")
@from_option
@ruleset_option
@spec_option
@output_option
@timeout_option
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    from_file: str | None,
    ruleset: str | None,
    spec: str | None,
    output: str,
    timeout: float,
) -> None:
    """Prove that each EXPR holds for every first packet of a connection, or find one that it
    does not hold for.

    \b
    fields      uid gid proto src dst sport dport iif oif mark ctmark ctstate family hook
    verdicts    captured bypassed direct dropped, and port: who captures
    operators   == != in, not in, and or not implies, parentheses
    values      numbers, 8000-8999, 10.0.0.0/8, names, {sets, of, them}, none

    \b
    no-loop        the proxy's own traffic is never redirected to itself on its way out
    no-leak        everything that the spec captures is captured
    no-black-hole  nothing is handed to a port that nobody listens on

    Without an EXPR, these three are asked. A comparison with a field that the packet lacks is
    false, != as well. docs/prove.md has it all.

    \b
    meshnet prove shop/cart "uid != 1337 and proto == tcp and oif != lo implies captured"
    meshnet prove --spec "-b * -i *" "dst in 10.0.0.0/8 and dport == 443 implies port == 15001"

    Ends with 3 where something is wrong. Proofs are z3's (pip install 'meshnet[prove]').
    """
    from meshnet.cli.any_source import any_source
    from meshnet.ops.prove import prove

    target: str | None = None
    if not (from_file or ruleset or spec):
        if not words:
            raise UsageError("name a TARGET or a FILE", "meshnet prove --help")
        target, words = words[0], words[1:]
    found = prove(any_source(target, from_file, ruleset, spec, timeout), words)
    _show(found, output)
    ctx.exit(int(not found.whole) if found.holds else 3)


def _show(found: Proof, output: str) -> None:
    if output == "json":
        print_json(found)
        return
    from meshnet.render.console import console
    from meshnet.render.proof import show_proof

    show_proof(console(), found)
