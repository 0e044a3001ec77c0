"""The shape of a backend, and of a plan."""

from __future__ import annotations

from meshnet.model.frozen import dataclass, field
from meshnet.model.packet import Family
from meshnet.model.ruleset import Ruleset
from meshnet.model.spec import Form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from meshnet.backends.edits import TableEdit

    class Backend(Protocol):
        """What every backend can do."""

        name: str
        form: Form

        def probe(self) -> str:
            """Why this backend cannot work here, in one sentence; "" where it can."""

        def read(self) -> Ruleset:
            """The tables that may hold rules of ours; reading changes nothing."""

        def holds_own(self, held: Ruleset) -> bool:
            """Whether something of ours is in what :meth:`read` gave."""

        def may_hold_own(self) -> bool:
            """The same question where :meth:`read` cannot work: no program is needed to ask."""

        def plan(self, held: Ruleset, wanted: Ruleset) -> Plan:
            """What turns ``held`` into ``wanted``; a plan without steps where nothing does."""

        def remove(self, held: Ruleset) -> Plan:
            """What takes away everything of ours, and nothing else."""

        def apply(self, plan: Plan) -> None:
            """Send the plan's steps; raises ToolFailed, KernelLacks or NotPermitted."""

else:
    Backend = object


@dataclass(frozen=True)
class Step:
    """One thing that is sent to the kernel at once.

    ``text`` is what is sent, in the tool's own language; ``families`` says whom it
    concerns; ``edits`` is the same for a writer that does not read text.
    """

    tool: str
    text: str
    families: tuple[Family, ...]
    edits: tuple[TableEdit, ...] = field(default=(), compare=False)

    def as_value(self) -> dict[str, Any]:
        """The step as plain data."""
        return {
            "tool": self.tool,
            "families": [family.value for family in self.families],
            "input": self.text,
        }


@dataclass(frozen=True)
class Plan:
    """The steps of one backend, in the order in which they are sent; none: nothing to do.

    ``wanted`` is where they lead, for a writer that has to look and plan again.
    """

    backend: str
    steps: tuple[Step, ...] = ()
    wanted: Ruleset = field(default=Ruleset(), compare=False)

    def __bool__(self) -> bool:
        return bool(self.steps)
