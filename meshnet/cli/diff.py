"""``meshnet diff``: what two rulesets do differently."""

from __future__ import annotations

import shlex

import click

from meshnet.cli.target_options import output_option, print_json, timeout_option
from meshnet.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from meshnet.model.difference import Difference
    from meshnet.ops.sources import Source


def _in_order(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Remember which option came first: that is the first side."""
    if value:
        ctx.meta.setdefault(_ORDER, []).append(str(param.name))
    return value


_ORDER = "meshnet.diff.order"
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
@click.option(
    "--from",
    "from_files",
    multiple=True,
    callback=_in_order,
    metavar="FILE",
    help="A snapshot as a side.",
)
@click.option(
    "--ruleset",
    "rulesets",
    multiple=True,
    callback=_in_order,
    metavar="FILE",
    help="A dump as a side.",
)
@click.option(
    "--spec",
    "specs",
    multiple=True,
    callback=_in_order,
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
    files by their names, or by the options, which stand behind the words, in order.

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
        given = {"from_files": from_files, "rulesets": rulesets, "specs": specs}
        kinds = {kind: given[kind] for kind in ctx.meta.get(_ORDER, ())}
        sides = _sides(words, kinds, timeout)
    found = differ(*sides, behaviour=not text_only)
    _show(found, output, text_only)
    differs = bool(found.text) if text_only else not found.same
    # What could not be read may differ: nothing is said to be the same then.
    ctx.exit(3 if differs else int(not found.whole))


def _sides(
    words: tuple[str, ...], kinds: dict[str, tuple[str, ...]], timeout: float
) -> tuple[Source, Source]:
    from meshnet.cli.any_source import any_source

    named = [(kind, text) for kind, texts in kinds.items() for text in texts]
    given = len(words) + len(named)
    if given != 2:
        raise UsageError(f"two sides are compared, and {given} were named", "meshnet diff --help")
    found: list[Source | None] = [any_source(word, timeout=timeout) for word in words]
    for kind, text in named:
        if kind == "specs":
            found.append(None)
        else:
            files = (text, None) if kind == "from_files" else (None, text)
            found.append(any_source(None, *files))
    # A configuration is compiled for the backend of what it is compared with: that comes first.
    beside = [source for source in found if source is not None]
    texts = iter(kinds.get("specs", ()))
    sources: list[Source] = []
    for source in found:
        made = source if source is not None else _spec_beside(next(texts), beside)
        sources.append(made)
        beside += [made] if source is None else []
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
