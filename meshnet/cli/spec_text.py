"""A configuration that is nowhere applied: meshnet-init's flags in one text, or a file."""

from __future__ import annotations

import shlex

from meshnet.cli.arguments import read_arguments
from meshnet.cli.flags import FLAGS
from meshnet.cli.gather import gather, read_file
from meshnet.errors import UsageError, printable
from meshnet.model.frozen import dataclass
from meshnet.model.intent import read_intent
from meshnet.model.spec import CaptureSpec, IPv6
from meshnet.model.values import Value, read_bool, read_choice

_TRAFFIC = frozenset(flag.name for flag in FLAGS if flag.traffic) | {"profile"}
_BACKENDS = ("auto", "legacy", "nft-compat", "nft")
#: What is said where profile istio decides about IPv6 by itself.
IPV6_NOTE = "ipv6 hangs on the pod's addresses: off is assumed; --ipv6 on says otherwise"
#: What a spec is compiled for where nothing says.
USUAL_BACKEND = "nft-compat"


@dataclass(frozen=True)
class SpecText:
    """What a text meant. ``notes`` are what had to be assumed, and warnings."""

    spec: CaptureSpec
    backend: str
    name: str
    notes: tuple[str, ...] = ()


def read_spec(text: str, origin: str = "--spec") -> SpecText:
    """The configuration in ``text``: flags where it begins with "-", else a file's path.

    As meshnet-init reads them, but for the environment, which is not looked at. What only a
    namespace can tell is assumed, and noted. Raises UsageError as meshnet-init does.
    """
    if text.lstrip().startswith("-"):
        try:
            words = shlex.split(text)
        except ValueError as e:
            raise UsageError(f"{origin}: '{printable(text)}': {e}") from e
        settings = gather(read_arguments(words, "meshnet-init"), {})
    else:
        settings = read_file(text, origin)
    for name in ("cleanup-only", "help", "version"):
        if name in settings:
            raise UsageError(f"{origin}: --{name} describes no traffic")
    notes: list[str] = []
    chosen = {name: value for name, value in settings.items() if name in _TRAFFIC}
    intent = read_intent(chosen, _no_groups)
    spec = intent.spec
    notes += intent.warnings
    if intent.ipv6_auto:
        spec = spec.with_ipv6(IPv6.OFF)
        notes.append(IPV6_NOTE)
    if intent.dns_from_resolver:
        notes.append("the DNS servers are the pod's resolv.conf's: none are assumed (--dns-server)")
    return SpecText(spec, _backend(settings), printable(text, 60), tuple(notes))


def _backend(settings: dict[str, Value]) -> str:
    native = settings.get("native-nftables")
    if native is not None and read_bool(native):
        return "nft"
    named = settings.get("backend")
    chosen = "auto" if named is None else read_choice(named, *_BACKENDS)
    return USUAL_BACKEND if chosen == "auto" else chosen


def _no_groups(name: str) -> int | None:
    """Names of groups are a machine's; on paper they are numbers."""
    return None
