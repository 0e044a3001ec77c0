"""CaptureSpec to Ruleset, one module a profile. Pure."""

from __future__ import annotations

from meshnet.compile.lowering import lower
from meshnet.compile.plumbing import plumbing_of
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import CaptureSpec, Form, Profile

__all__ = ["compile_spec", "plumbing_of"]


def compile_spec(spec: CaptureSpec, form: Form) -> Ruleset:
    """The rules that ``spec`` means, in the tables of ``form``.

    Deterministic. For IPTABLES the tables are ip's and ip6's built-in ones and hold
    only rules of ours; for NFT they are whole inet tables of ours.
    """
    if spec.profile is Profile.CLASSIC:
        from meshnet.compile.classic import draft
    elif spec.profile is Profile.ISTIO:
        from meshnet.compile.istio import draft
    else:
        from meshnet.compile.strict import draft
    return lower(draft(spec, form), spec, form)
