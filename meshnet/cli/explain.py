"""``meshnet explain``: why a packet goes through the sidecar, or past it."""

from __future__ import annotations

import click

from meshnet.cli.source_options import named_source, ruleset_option, spec_option
from meshnet.cli.target_options import from_option, output_option, print_json, timeout_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.explanation import Explanation

VERDICTS = ("captured", "direct", "bypassed", "dropped")


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("words", nargs=-1, metavar="[TARGET] PROTOCOL ADDR[:PORT]")
@click.option("--uid", metavar="N", help="Who sends it; `none` for what no socket sends.")
@click.option("--gid", metavar="N", help="The sender's group.  [default: the UID's number]")
@click.option("--in", "iif", metavar="IF", help="It comes in by this interface.")
@click.option("--out", "oif", metavar="IF", help="It leaves by this one, where routes do not tell.")
@click.option("--src", metavar="ADDR[:PORT]", help="Where it comes from.")
@click.option("--mark", metavar="N", help="Its mark.  [default: 0]")
@click.option("--state", metavar="STATE", help="Its connection's state.  [default: new]")
@click.option("--follow", is_flag=True, help="The proxy's own connections too, to the end.")
@click.option(
    "--expect", type=click.Choice(VERDICTS), help="End with 3 where the verdict is another."
)
@click.option("-v", "--verbose", is_flag=True, help="Every rule a line, with all reasons.")
@from_option
@ruleset_option
@spec_option
@output_option
@timeout_option
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    uid: str | None,
    gid: str | None,
    iif: str | None,
    oif: str | None,
    src: str | None,
    mark: str | None,
    state: str | None,
    follow: bool,
    expect: str | None,
    verbose: bool,
    from_file: str | None,
    ruleset: str | None,
    spec: str | None,
    output: str,
    timeout: float,
) -> None:
    """Explain what the rules do with one packet: each one it meets, the verdict, and why.

    \b
    captured   handed to a port of this namespace: the proxy's
    bypassed   a rule of ours lets it go: the proxy's user, an exclusion, loopback
    direct     no rule of ours decides: none captures it, or a foreign one comes first
    dropped    thrown away or refused
    maybe      it hangs on what no dump shows; this is named, and each way is followed

    \b
    meshnet explain shop/cart --uid 1000 tcp 93.184.216.34:443
    meshnet explain shop/cart --in eth0 --src 10.244.9.2 tcp 10.244.0.7:8080
    meshnet explain --spec "-b * -i 10.0.0.0/8" --uid 1000 --out eth0 tcp 10.1.2.3:80

    The packet is the first of its connection. Ends with 3 where --expect is not met.
    """
    from meshnet.cli.spec_text import IPV6_NOTE
    from meshnet.model.frozen import replace
    from meshnet.model.packet import Family
    from meshnet.ops.explain import Wanted, explain
    from meshnet.reason.ask import Told, read_question

    target, packet = _parted(words, bool(from_file or ruleset or spec))
    question = read_question(packet, Told(uid, gid, iif, oif, src, mark, state))
    source = named_source(target, from_file, ruleset, spec, timeout)
    if question.family is Family.IP:
        source = replace(source, notes=tuple(n for n in source.notes if n != IPV6_NOTE))
    found = explain(source, question, Wanted(follow, verbose, expect or "", timeout))
    _show(found, output)
    ctx.exit(0 if found.met else 3)


def _parted(words: tuple[str, ...], stored: bool) -> tuple[str | None, tuple[str, ...]]:
    """TARGET and the words of the packet; there is no TARGET where the rules are stored."""
    if stored and len(words) < 3:
        return None, words
    return (words[0], words[1:]) if words else (None, ())


def _show(explanation: Explanation, output: str) -> None:
    if output == "json":
        print_json(explanation)
        return
    from meshnet.render.console import console
    from meshnet.render.explanation import show_explanation

    show_explanation(console(), explanation, _flags())


def _flags() -> dict[str, str]:
    """meshnet-init's flag for each setting, the short one where there is one."""
    from meshnet.cli.flags import FLAGS

    found = {}
    for flag in FLAGS:
        if flag.key and not flag.hidden:
            found[flag.key] = f"-{flag.short}" if flag.short else f"--{flag.name}"
    return found
