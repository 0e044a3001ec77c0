"""``meshnet diff``: what two rulesets do differently."""

from __future__ import annotations

import shlex

import click

from meshnet.cli.target_options import output_option, print_json, timeout_option
from meshnet.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.difference import Difference
    from meshnet.ops.sources import Source

_PROFILES = ("classic", "istio", "strict")
_BACKENDS = {
    "iptables": "nft-compat",
    "nft-compat": "nft-compat",
    "legacy": "legacy",
    "nft": "nft",
}
#: What is compared where only profiles or backends are named: what Istio's injector asks for.
USUAL = "-p 15001 -z 15006 -u 1337 -g 1337 -m REDIRECT -i '*' -b '*' -d 15090,15021,15020"


@click.command()
@click.argument("words", nargs=-1, metavar="[A] [B]")
@click.option("--from", "from_files", multiple=True, metavar="FILE", help="A snapshot as a side.")
@click.option("--ruleset", "rulesets", multiple=True, metavar="FILE", help="A dump as a side.")
@click.option(
    "--spec",
    "specs",
    multiple=True,
    metavar="SPEC",
    help="A configuration as a side: meshnet-init's flags as one text, or a file of it.",
)
@click.option(
    "--profile",
    "profiles",
    nargs=2,
    type=click.Choice(_PROFILES),
    metavar="P Q",
    help="One configuration by two profiles.",
)
@click.option(
    "--backend",
    "backends",
    nargs=2,
    type=click.Choice(tuple(_BACKENDS)),
    metavar="X Y",
    help="One configuration for two backends: iptables, legacy, nft.",
)
@click.option("--text", "text_only", is_flag=True, help="Only the rules as text; they decide.")
@output_option
@timeout_option
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    from_files: tuple[str, ...],
    rulesets: tuple[str, ...],
    specs: tuple[str, ...],
    profiles: tuple[str, str] | None,
    backends: tuple[str, str] | None,
    text_only: bool,
    output: str,
    timeout: float,
) -> None:
    """Compare the rules of A and B: as ordered text, and by what they do to every packet.

    A and B are targets, snapshots, dumps (iptables-save, `nft -j list ruleset`), configurations:
    files by their names, or by the options, which stand behind the words in order.

    \b
    meshnet diff shop/cart before.json            a pod and its snapshot
    meshnet diff shop/cart --spec mesh.yaml       a pod and what it should be
    meshnet diff --profile istio strict           one configuration by two profiles
    meshnet diff --backend iptables nft --spec "-b * -i 10.0.0.0/8"

    Packets are treated alike where the same port captures them, or none does, or they are
    dropped. Every class that is not is told with one packet; that there is none is proven by z3
    (pip install 'meshnet[prove]'). Ends with 3 where behaviour differs (with --text: the text).
    """
    from meshnet.ops.difference import differ

    if profiles or backends:
        if words or from_files or rulesets or len(specs) > 1:
            raise UsageError(
                "--profile and --backend compare one configuration", "give it by --spec, or none"
            )
        sides = _variants(specs[0] if specs else USUAL, profiles, backends)
    else:
        sides = _sides(words, from_files, rulesets, specs, timeout)
    found = differ(*sides, behaviour=not text_only)
    _show(found, output, text_only)
    differs = bool(found.text) if text_only else not found.same
    ctx.exit(3 if differs else 0)


def _sides(
    words: tuple[str, ...],
    from_files: tuple[str, ...],
    rulesets: tuple[str, ...],
    specs: tuple[str, ...],
    timeout: float,
) -> tuple[Source, Source]:
    from meshnet.cli.any_source import any_source

    given = len(words) + len(from_files) + len(rulesets) + len(specs)
    if given != 2:
        raise UsageError(f"two sides are compared, and {given} were named", "meshnet diff --help")
    sources = [any_source(word, timeout=timeout) for word in words]
    sources += [any_source(None, from_file=path) for path in from_files]
    sources += [any_source(None, ruleset=path) for path in rulesets]
    sources += [_spec_beside(spec, sources) for spec in specs]
    return sources[0], sources[1]


def _spec_beside(text: str, beside: list[Source]) -> Source:
    """A configuration, compiled for the backend of the side that it is compared with."""
    from meshnet.cli.source_options import named_source
    from meshnet.ops.sources import from_spec

    source = named_source(None, None, None, text)
    held = [name for each in beside for name, rules in each.rulesets.items() if rules.tables]
    if source.spec is None or len(held) != 1 or held[0] in source.rulesets:
        return source
    other = from_spec(source.spec, held[0])
    return type(source)(
        other.name, other.rulesets, spec=other.spec, plumbing=other.plumbing, notes=source.notes
    )


def _variants(
    spec: str, profiles: tuple[str, str] | None, backends: tuple[str, str] | None
) -> tuple[Source, Source]:
    made = []
    for at in (0, 1):
        flags = spec if spec.lstrip().startswith("-") else f"--config {shlex.quote(spec)}"
        profile = profiles[at] if profiles else ""
        backend = _BACKENDS[backends[at]] if backends else ""
        made.append(_variant(flags, profile, backend))
    return made[0], made[1]


def _variant(flags: str, profile: str, backend: str) -> Source:
    from meshnet.cli.spec_text import read_spec
    from meshnet.model.frozen import replace
    from meshnet.ops.sources import from_spec

    text = f"{flags} --profile {profile}" if profile else flags
    found = read_spec(text)
    source = from_spec(found.spec, backend or found.backend)
    return replace(source, notes=found.notes)


def _show(found: Difference, output: str, text_only: bool) -> None:
    if output == "json":
        print_json(found)
        return
    from meshnet.render.console import console
    from meshnet.render.difference import show_difference

    show_difference(console(), found, text_only)
