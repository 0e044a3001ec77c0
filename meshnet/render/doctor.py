"""A checkup: as rows for people, as a document; and the table of features as a page."""

from __future__ import annotations

from meshnet.errors import printable
from meshnet.model.feature import Area, Checkup, Diagnosis, Feature, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from rich.console import Console

_STYLES = {State.OK: "green", State.DEGRADED: "yellow", State.MISSING: "red"}
_NAME_WIDE = 31
#: The longest sentence that is shown, in characters.
_LONGEST = 400

PAGE = """\
# What meshnet doctor looks at

`meshnet doctor` says of this machine and this user what is `ok`, `degraded` (not all of it, or it
could not be told) or `missing`, why, and how to mend it. It changes nothing, loads no module and
needs no privilege; what could not be told without one, it names. `-o json` gives the same as a
document of schema `meshnet/v1/doctor`.

Exit codes: 0 at least one backend can be used here · 4 none can, for want of a program or of a
part of the kernel · 5 one could, by a user with the capabilities that its line names.

Rules are tried in a network namespace that the probe makes for itself and that ends with it (in a
user namespace where privileges are missing), programs by loading them without attaching them. A
part of the kernel that is a module and not loaded is not tried: that would load it. It is looked
up in /proc/modules, modules.builtin, modules.dep and the kernel's configuration instead.

The eBPF data path and the tracing of packets and connections are listed ahead of themselves: what
they will need can be looked at now. This page is made by `python -m meshnet.cli.doctor`; a test
holds it to the program.
"""


def show(checkup: Checkup, out: Console) -> None:
    """Print the checkup: a head, then a table an area, a row a feature."""
    from rich.table import Table
    from rich.text import Text

    user = "" if checkup.first_userns else ", in a user namespace of its own"
    head = f"Linux {checkup.kernel} {checkup.machine}, uid {checkup.uid}{user}: "
    usable = ", ".join(checkup.usable) or "none"
    out.print(Text(printable(head + _counts(checkup) + f"; usable backends: {usable}")))
    for area in Area:
        rows = [d for d in checkup.diagnoses if d.feature.area is area]
        if not rows:
            continue
        out.print(Text(f"\n{area.value}", style="bold"))
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(width=len(State.DEGRADED.value), no_wrap=True)
        table.add_column(width=_NAME_WIDE)
        table.add_column(overflow="fold")
        for row in rows:
            state = row.answer.state
            name = Text(printable(row.feature.name))
            table.add_row(Text(state.value, style=_STYLES[state]), name, Text(sentence(row)))
        out.print(table)


def sentence(diagnosis: Diagnosis) -> str:
    """Why; and where not all is well, who needs it and what mends it. Escaped, of one line."""
    answer, feature = diagnosis.answer, diagnosis.feature
    if answer.state is State.OK:
        return printable(answer.why, _LONGEST)
    said = f"{answer.why}; needed by {', '.join(feature.needed_by)}"
    if feature.area is Area.BACKENDS:
        said = answer.why
    return printable(f"{said}; to mend: {answer.mend}" if answer.mend else said, _LONGEST)


def _counts(checkup: Checkup) -> str:
    states = [d.answer.state for d in checkup.diagnoses]
    return ", ".join(f"{states.count(state)} {state.value}" for state in State)


def as_document(checkup: Checkup) -> dict[str, Any]:
    """The checkup as a document of schema meshnet/v1/doctor."""
    return {
        "schema": "meshnet/v1/doctor",
        "kernel": checkup.kernel,
        "machine": checkup.machine,
        "uid": checkup.uid,
        "first_user_namespace": checkup.first_userns,
        "usable_backends": list(checkup.usable),
        "features": [
            {
                "name": d.feature.name,
                "area": d.feature.area.value,
                "state": d.answer.state.value,
                "why": printable(d.answer.why, _LONGEST),
                "mend": printable(d.answer.mend, _LONGEST),
                "since": d.feature.since,
                "needed_by": list(d.feature.needed_by),
            }
            for d in checkup.diagnoses
        ],
    }


def page(features: Iterable[Feature], how: dict[str, str]) -> str:
    """docs/doctor.md: the table of features; ``how`` says what each kind of probe does."""
    rows = list(features)
    parts = [PAGE]
    for area in Area:
        title = area.value if area is Area.BPF else area.value[0].upper() + area.value[1:]
        parts.append(f"\n## {title}\n\n")
        parts.append("| feature | since Linux | looked at by | needed by |\n|---|---|---|---|\n")
        for feature in (f for f in rows if f.area is area):
            kind, *words = feature.probe
            looked = how[kind].format(*words, all=" ".join(words), rest=", ".join(words))
            cells = (feature.name, feature.since, looked, ", ".join(feature.needed_by))
            parts.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |\n")
    return "".join(parts)
