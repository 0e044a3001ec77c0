"""``meshnet doctor``: every feature of the table, looked at for this machine and this user.

Probes run in three places: here (files, programs, capabilities), in a child that asks
bpf(2), and in a child with a network namespace of its own. Before a probe may use a part of
the kernel, that part has to be there already: what is a module and not loaded is reported
and not tried, because trying would load it.
"""

from __future__ import annotations

import os

from meshnet.backends import load_backend
from meshnet.errors import MeshnetError, NotPermitted
from meshnet.host.apart import run_apart
from meshnet.host.capabilities import held
from meshnet.host.features import FEATURES, OWNER_OF_NETNS
from meshnet.host.modules import KernelParts, Presence, read_parts
from meshnet.host.netns import run_child
from meshnet.host.probes_apart import APART
from meshnet.host.probes_bpf import BPF_PROBES
from meshnet.host.probes_here import HERE, in_first_userns
from meshnet.model.feature import (
    Answer,
    Area,
    Checkup,
    Diagnosis,
    Feature,
    State,
    degraded,
    missing,
    ok,
    untold,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Probe = Callable[[Feature, KernelParts], Answer]

#: What a child that asks bpf(2) may take, in seconds.
_PATIENCE = 20.0


def check_up() -> Checkup:
    """Look at everything. Changes nothing, loads nothing, needs no privilege."""
    parts = read_parts()
    answers = _run(_of(HERE), HERE, parts)
    answers |= _remote(BPF_PROBES, parts, lambda job: run_child(job, timeout=_PATIENCE))
    answers |= _remote(APART, parts, run_apart)
    backends = [f for f in FEATURES if f.area is Area.BACKENDS]
    broken = {f.name: _broken(f, answers, parts) for f in backends}
    refused = {f.name: _refused(f, answers) for f in backends}
    for feature in backends:
        answer = broken[feature.name] or refused[feature.name]
        answers[feature.name] = answer or _complete(feature, answers)
    system = os.uname()
    return Checkup(
        system.release,
        system.machine,
        os.geteuid(),
        in_first_userns(),
        tuple(Diagnosis(f, _mended(f, answers[f.name], system.release)) for f in FEATURES),
        tuple(f.probe[1] for f in backends if answers[f.name].state is not State.MISSING),
        any(refused[f.name] and not broken[f.name] for f in backends),
    )


def _run(
    features: list[Feature], probes: Mapping[str, Probe], parts: KernelParts
) -> dict[str, Answer]:
    """What each feature's probe says, by the feature's name."""
    answers = {}
    for feature in features:
        try:
            answers[feature.name] = probes[feature.probe[0]](feature, parts)
        except (MeshnetError, OSError, ValueError) as e:
            answers[feature.name] = untold(str(e))
    return answers


def _of(probes: Mapping[str, Probe]) -> list[Feature]:
    return [feature for feature in FEATURES if feature.probe[0] in probes]


def _remote(
    probes: Mapping[str, Probe], parts: KernelParts, run: Callable[[Callable[[], Any]], Any]
) -> dict[str, Answer]:
    """As :func:`_run`, in a child that ``run`` makes; what might load a module stays out of it."""
    mine = _of(probes)
    static = {f.name: _untried(f, parts) for f in mine if parts.unsafe(f.modules, f.perhaps)}
    safe = [f for f in mine if f.name not in static]

    def job() -> dict[str, tuple[str, str, str]]:
        _silence()
        tried = _run(safe, probes, parts)
        return {name: (a.state.value, a.why, a.mend) for name, a in tried.items()}

    try:
        found = {name: Answer(State(a[0]), a[1], a[2]) for name, a in run(job).items()}
    except MeshnetError as e:
        found = {f.name: _not_tried(f, parts, e) for f in safe}
    return found | static


def _not_tried(feature: Feature, parts: KernelParts, error: MeshnetError) -> Answer:
    """What can be said where no child could be made that tries."""
    seen = {parts.presence(module) for module in feature.modules}
    if seen == {Presence.THERE}:
        return degraded(f"in this kernel, but not tried: {error.message}", error.hint)
    return untold(error.message, error.hint)


def _silence() -> None:
    """Libraries and programs of a child have nothing to say to the user."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _untried(feature: Feature, parts: KernelParts) -> Answer:
    """What can be said of a feature of which a part is not in the kernel now."""
    seen = [(parts.presence(module), module) for module in feature.modules]
    for module in (m for presence, m in seen if presence is Presence.ABSENT):
        return missing(f"this kernel was built without {module.name}")
    for module in (m for presence, m in seen if presence is Presence.UNKNOWN):
        return untold(
            f"{module.name} is not loaded, and what could be loaded is not to be seen here",
            f"look on the machine itself; `modprobe {module.name}` there loads it",
        )
    seen += [(parts.presence(module), module) for module in feature.perhaps]
    names = ", ".join(m.name for presence, m in seen if presence is Presence.LOADABLE)
    if not names:
        return untold("a module that it may load is not to be seen here", "look on the machine")
    return ok(f"available as a module, not loaded ({names}): its first use loads it")


def _broken(backend: Feature, answers: Mapping[str, Answer], parts: KernelParts) -> Answer | None:
    """Why the backend could not work here for anybody; None where it could."""
    name = backend.probe[1]
    vital = [f for f in FEATURES if name in f.vital_to]
    for feature in vital:
        answer = answers[feature.name]
        if answer.state is State.MISSING:
            return missing(f"{feature.name}: {answer.why}", answer.mend or feature.mend)
    lacking = [m for f in vital for m in f.modules if parts.unsafe((m,))]
    if lacking and name == "legacy":
        # Unlike nf_tables, which answers its first netlink request by loading itself.
        names = " ".join(dict.fromkeys(m.name for m in lacking))
        return missing(
            f"not loaded, and meshnet-init loads no module: {names}", f"modprobe -a {names}"
        )
    if lacking:
        return None
    try:
        reason = load_backend(name, 0).probe()
    except NotPermitted:
        return None
    except MeshnetError as e:
        reason = e.message
    return missing(reason, "the lines of what it needs say more") if reason else None


def _refused(backend: Feature, answers: Mapping[str, Answer]) -> Answer | None:
    """What this process lacks for the backend; None where it may use it."""
    lacking = [name for name in backend.probe[2:] if name not in held()]
    if lacking:
        return missing(
            f"this process lacks {' and '.join(lacking)}",
            "run as root, or add the capability to the container",
        )
    owner = answers[OWNER_OF_NETNS]
    if owner.state is State.DEGRADED:
        return missing(f"no capability held here counts: {owner.why}", owner.mend)
    return None


def _complete(backend: Feature, answers: Mapping[str, Answer]) -> Answer:
    """It works; what of it does not."""
    users = (backend.name, f"{backend.name}:")
    mine = [
        f for f in FEATURES if any(n == users[0] or n.startswith(users[1]) for n in f.needed_by)
    ]
    lost = [f.name for f in mine if answers[f.name].state is State.MISSING]
    if lost:
        return degraded(f"usable, without {', '.join(lost)}", "see their lines")
    unsure = [f.name for f in mine if answers[f.name].state is State.DEGRADED]
    if unsure:
        return degraded(f"usable, as far as can be told of {', '.join(unsure)}", "see their lines")
    return ok(f"usable here: all {len(mine)} features that it needs are there")


def _mended(feature: Feature, answer: Answer, release: str) -> Answer:
    """``answer`` with a way out, where it needs one and has none of its own."""
    if answer.state is State.OK or answer.mend:
        return answer
    mend = feature.mend
    if answer.state is State.DEGRADED:
        mend = mend or "run as root on the machine itself"
    elif feature.since and _version(release) < _version(feature.since):
        mend = f"boot Linux {feature.since} or later"
    elif not mend and feature.modules:
        options = ", ".join(f"CONFIG_{module.option}" for module in feature.modules)
        mend = f"boot a kernel with {options}"
    elif not mend:
        mend = f"boot a kernel that has it, Linux {feature.since} or later"
    return Answer(answer.state, answer.why, mend)


def _version(text: str) -> tuple[int, ...]:
    """``6.18.44-fc-v595`` is (6, 18)."""
    parts = text.split(".")[:2]
    return tuple(int("".join(c for c in p if c.isdigit()) or 0) for p in parts)
