"""Programming a capture into a network namespace, and taking it away.

Runs in the namespace concerned: :mod:`meshnet.ops.initialize` sees to that. All that is
planned is read first and sent then, under one lock of the namespace; what the kernel
refuses half-way is put back.
"""

from __future__ import annotations

import errno

from meshnet.backends import Backend, Plan, load_backend
from meshnet.backends.edits import with_comments
from meshnet.compile import compile_spec, plumbing_of
from meshnet.compile.ownership import own_part
from meshnet.errors import MeshnetError, NotPermitted
from meshnet.host import rtnetlink
from meshnet.host.capabilities import held as held_capabilities
from meshnet.host.capabilities import require
from meshnet.host.locks import NamespaceLock
from meshnet.host.netlink import NetlinkError
from meshnet.model.frozen import dataclass, replace
from meshnet.model.intent import Intent
from meshnet.model.packet import Family
from meshnet.model.plumbing import LocalRoute, Part
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import CaptureSpec, Form, IPv6
from meshnet.ops.choose import Survey, choose, refuse_hidden, survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@dataclass(frozen=True)
class Options:
    """How to program. ``lock_wait`` is in seconds."""

    backend: str = "auto"
    migrate: bool = False
    comments: bool = False
    dry_run: bool = False
    lock_wait: float = 30.0


@dataclass(frozen=True)
class Work:
    """What a run is going to send, in this order: parts, rules, other backends' rules, parts."""

    backend: str
    why: str
    added: tuple[Part, ...]
    plan: Plan
    others: tuple[Plan, ...]
    removed: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.plan or any(self.others) or self.removed)

    def as_value(self) -> dict[str, Any]:
        """The work as plain data, as ``--output json`` shows it."""
        return {
            "backend": self.backend,
            "why": self.why,
            "changes": bool(self),
            "add": [str(part) for part in self.added],
            "steps": [step.as_value() for step in self.plan.steps],
            "elsewhere": [
                {"backend": plan.backend, "steps": [s.as_value() for s in plan.steps]}
                for plan in self.others
            ],
            "remove": [_removal(part) for part in self.removed],
            "notes": list(self.notes),
        }


def _removal(part: Part) -> str:
    return str(part).replace(" add ", " delete ", 1)


def apply_intent(intent: Intent, options: Options) -> dict[str, Any]:
    """Make this namespace hold what ``intent`` means; the work done (or, in a dry run, planned).

    Raises what :func:`meshnet.ops.choose.choose` and the backends raise; then nothing
    has changed that was not put back.
    """
    if not options.dry_run:
        require("CAP_NET_ADMIN")
    with NamespaceLock(options.lock_wait):
        spec = settle(intent)
        seen = _survey(options)
        if not options.dry_run:
            refuse_hidden(seen)
        backend, why = choose(options.backend, seen, options.migrate, options.lock_wait)
        work = plan_work(spec, backend, why, seen, options)
        if work and not options.dry_run:
            work = replace(work, notes=(*work.notes, *_send(work, backend, seen, options)))
    return work.as_value()


def remove_all(options: Options) -> dict[str, Any]:
    """Take away what is ours, in every backend, table and family, and nothing else."""
    require("CAP_NET_ADMIN")
    with NamespaceLock(options.lock_wait):
        seen = survey(options.lock_wait)
        plans = tuple(load_backend(n, options.lock_wait).remove(seen.held[n]) for n in seen.ours)
        parts = tuple(part for part, ours in reversed(_present(options)) if ours)
        work = Work("all", "cleanup looks at every backend", (), Plan("all"), plans, parts)
        if work and not options.dry_run:
            for plan in plans:
                load_backend(plan.backend, options.lock_wait).apply(plan)
            for part in parts:
                rtnetlink.remove_part(part)
        if not options.dry_run:
            refuse_hidden(seen)
    return work.as_value()


def settle(intent: Intent) -> CaptureSpec:
    """The spec with what only the namespace can tell: istio's answer for IPv6.

    As Istio's tool has it: the family of the first address that is neither loopback nor
    link-local decides; with dual stack any such IPv6 address turns IPv6 on.
    """
    if not intent.ipv6_auto:
        return intent.spec
    families = [a.family for a in rtnetlink.addresses() if not a.is_local_only()]
    on = Family.IP6 in (families if intent.dual_stack else families[:1])
    return intent.spec.with_ipv6(IPv6.CAPTURE if on else IPv6.OFF)


def _survey(options: Options) -> Survey:
    try:
        return survey(options.lock_wait)
    except NotPermitted:
        if not options.dry_run:
            raise
        # Somebody without privileges wants to see the plan: against an empty namespace.
        return Survey({name: Ruleset() for name in ("nft-compat", "nft", "legacy")}, (), {}, {})


def _present(options: Options) -> list[tuple[Part, bool]]:
    """The parts that are there, and whether each is ours."""
    try:
        return rtnetlink.present_parts()
    except NotPermitted:
        if options.dry_run:
            return []
        raise


def plan_work(
    spec: CaptureSpec, backend: Backend, why: str, seen: Survey, options: Options
) -> Work:
    """What has to be sent so that ``backend``, alone, holds the capture of ``spec``."""
    wanted = compile_spec(spec, backend.form)
    if options.comments:
        wanted = with_comments(wanted)
    plan = backend.plan(seen.held[backend.name], wanted)
    others = [n for n in seen.ours if n != backend.name]
    needed, notes = _possible(plumbing_of(spec))
    present = _present(options)
    there = [part for part, _ in present]
    return Work(
        backend.name,
        why,
        tuple(part for part in needed if part not in there),
        plan,
        tuple(load_backend(n, options.lock_wait).remove(seen.held[n]) for n in others),
        tuple(part for part, ours in reversed(present) if ours and part not in needed),
        (*notes, *_notes(spec, backend.form)),
    )


def _possible(parts: tuple[Part, ...]) -> tuple[tuple[Part, ...], list[str]]:
    """The parts that this namespace can have, and a note on each that it cannot."""
    if not rtnetlink.refuses_ipv6_on_loopback():
        return parts, []
    refused = [part for part in parts if part.family is Family.IP6]
    notes = [f"not made, IPv6 is disabled on lo: {part}" for part in refused]
    return tuple(part for part in parts if part not in refused), notes


def _notes(spec: CaptureSpec, form: Form) -> tuple[str, ...]:
    notes = []
    if "CAP_NET_ADMIN" not in held_capabilities():
        notes.append("without CAP_NET_ADMIN the namespace cannot be read: planned as if empty")
    if form is Form.NFT and spec.ipv6 is IPv6.OFF:
        notes.append(
            "Istio's native nft rules capture IPv6 even when it is off; profile strict does not"
        )
    return tuple(notes)


def _send(work: Work, backend: Backend, seen: Survey, options: Options) -> list[str]:
    """Send the work; put back what was sent where a later part is refused."""
    notes: list[str] = []
    made: list[Part] = []
    begun: list[Backend] = [backend]
    try:
        notes += _add_parts(work.added, made)
        if work.plan:
            backend.apply(work.plan)
        for plan in work.others:
            begun.append(load_backend(plan.backend, options.lock_wait))
            begun[-1].apply(plan)
    except (MeshnetError, KeyboardInterrupt):
        # What lost its rules last gets them back first: captured throughout, here too.
        for one in reversed(begun):
            _put_back(one, seen.held[one.name])
        for part in reversed(made):
            rtnetlink.remove_part(part)
        raise
    for part in work.removed:
        rtnetlink.remove_part(part)
    return notes


def _add_parts(parts: tuple[Part, ...], made: list[Part]) -> list[str]:
    notes = []
    if any(isinstance(part, LocalRoute) for part in parts) and not rtnetlink.loopback()[1]:
        rtnetlink.raise_loopback()
        notes.append("lo was down and is up now: TPROXY's local route needs it")
    for part in parts:
        try:
            if rtnetlink.add_part(part):
                made.append(part)
        except NetlinkError as e:
            if e.code not in (errno.EACCES, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                raise
            notes.append(f"not made, IPv6 is disabled here: {part}")
    return notes


def _put_back(backend: Backend, held: Ruleset) -> None:
    before = own_part(held) if backend.form is Form.IPTABLES else held
    plan = backend.plan(backend.read(), before)
    if plan:
        backend.apply(plan)
