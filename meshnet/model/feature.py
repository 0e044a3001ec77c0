"""A feature of a machine: what it is, how it is looked for, who needs it, and what was found.

The table of features is data (``host/features.py``); ``meshnet doctor`` and docs/doctor.md are
both made from it.
"""

from __future__ import annotations

from meshnet.model.choices import Enum
from meshnet.model.frozen import dataclass


class Area(Enum):
    """What a feature belongs to, in the order in which areas are shown."""

    CAPABILITIES = "capabilities"
    NETFILTER = "netfilter"
    NETWORK = "networking and namespaces"
    BPF = "eBPF"
    TOOLS = "programs"
    PACKAGES = "Python"
    RUNTIMES = "container runtimes"
    BACKENDS = "backends"


class State(Enum):
    """``ok``; ``degraded``: not all of it, or it could not be told; ``missing``."""

    OK = "ok"
    DEGRADED = "degraded"
    MISSING = "missing"


@dataclass(frozen=True)
class Module:
    """A part of the kernel that may be a module, and the option that builds it (no CONFIG_)."""

    name: str
    option: str


@dataclass(frozen=True)
class Feature:
    """One line of the table.

    ``probe`` is the kind of probe and its words; ``needed_by`` at least one who uses the
    feature; ``vital_to`` the backends that cannot work without it; ``since`` the first kernel
    with it ("" where that is no question). ``modules`` must all be there before the probe runs,
    or it would load them; so would it those of ``perhaps``, which only some kernels have.
    ``mend`` is what helps where it is missing, a sentence.
    """

    name: str
    area: Area
    probe: tuple[str, ...]
    needed_by: tuple[str, ...]
    since: str = ""
    modules: tuple[Module, ...] = ()
    vital_to: tuple[str, ...] = ()
    mend: str = ""
    perhaps: tuple[Module, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a probe found.

    ``why`` is a sentence without its full stop, and so is ``mend``, which is "" where the
    feature's own holds, or nothing is to be mended. Both may hold text from outside: whoever
    prints them escapes them.
    """

    state: State
    why: str
    mend: str = ""


def ok(why: str) -> Answer:
    """It is there."""
    return Answer(State.OK, why)


def missing(why: str, mend: str = "") -> Answer:
    """It is not there."""
    return Answer(State.MISSING, why, mend)


def degraded(why: str, mend: str = "") -> Answer:
    """It is there in part."""
    return Answer(State.DEGRADED, why, mend)


def untold(why: str, mend: str = "") -> Answer:
    """It could not be told whether it is there; ``why`` says what stood in the way."""
    return Answer(State.DEGRADED, f"could not be told: {why}", mend)


@dataclass(frozen=True)
class Diagnosis:
    """What became of one feature here."""

    feature: Feature
    answer: Answer


@dataclass(frozen=True)
class Checkup:
    """All diagnoses of one machine for one user.

    ``uid`` is the effective one; ``first_userns`` is False in a user namespace of its own,
    where capabilities reach no further. ``refused`` says that a backend would work for
    somebody with more capabilities.
    """

    kernel: str
    machine: str
    uid: int
    first_userns: bool
    diagnoses: tuple[Diagnosis, ...]
    usable: tuple[str, ...] = ()
    refused: bool = False
