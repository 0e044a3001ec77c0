"""What a rule does to a packet, as far as the walk has words for it.

A :class:`~meshnet.model.rule.Target` is one effect; targets that the model has no word for
do one of :class:`Beyond`.
"""

from __future__ import annotations

from meshnet.model.choices import Enum
from meshnet.model.frozen import dataclass
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Target


class Beyond(Enum):
    """Effects of targets that the model has no word for.

    ``notrack``: conntrack leaves the packet alone. ``dnat``: another destination, ``address``
    and ``port`` where they are known. ``snat``: another source. ``redirect``: to a
    port that is drawn. ``hand``: TPROXY of nft, which goes on with the next statement.
    ``forget``: ``fields`` are not known any more. ``queue``: a program decides. ``anything``: the
    target is not known here.
    """

    NOTRACK = "notrack"
    DNAT = "dnat"
    SNAT = "snat"
    REDIRECT = "redirect"
    HAND = "hand"
    FORGET = "forget"
    QUEUE = "queue"
    ANYTHING = "anything"


@dataclass(frozen=True)
class Foreign:
    """An effect of :class:`Beyond`; ``name`` is what its undecided part is called.

    ``family`` is the only one whose packets it changes; others go on with the next rule.
    """

    what: Beyond
    name: str = ""
    fields: tuple[Field, ...] = ()
    address: int | None = None
    port: int | None = None
    family: Family | None = None


Effect = Target | Foreign
