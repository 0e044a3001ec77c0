"""Why a rule does not hold, in words: ``uid is 1000``, ``10.1.2.3 is not in 10.2.0.0/16``."""

from __future__ import annotations

from meshnet.model.address import show_address
from meshnet.model.intervals import IntervalSet
from meshnet.model.match import PROTO_NAMES, Match
from meshnet.model.packet import Family, Field
from meshnet.reason.evaluate import View
from meshnet.reason.lines import Line
from meshnet.reason.words import values_in_words

_ADDRESSES = (Field.SRC, Field.DST)
_LACKS = {
    Field.UID: "it has no socket",
    Field.GID: "it has no socket",
    Field.CTMARK: "it has no connection in conntrack",
    Field.SPORT: "it has no ports",
    Field.DPORT: "it has no ports",
}
TYPE_CHECKING = False
if TYPE_CHECKING:
    from meshnet.model.verdict import Step
    from meshnet.reason.fates import Stretch

#: Of several reasons for one rule the first of these is told.
_TELLING = (
    *(Field.PROTO, Field.OIF, Field.IIF, Field.UID, Field.GID, Field.DST, Field.DPORT),
    *(Field.SRC, Field.SPORT, Field.CTSTATE, Field.MARK, Field.CTMARK),
)
RANK = {field: at for at, field in enumerate(_TELLING)}
#: Longer lists of what a rule wants are not told: the rule itself stands beside.
_SHORT = 40


class Sight:
    """What the rules of one stretch saw: ``view``, those that held or may hold, with their steps,
    and for each of the others, in order, the matches that are false."""

    __slots__ = ("false", "held", "view")

    def __init__(self, stretch: Stretch) -> None:
        self.view = View(stretch.at.state, stretch.at.frames[-1][0].native)
        self.held: list[tuple[Line, Step]] = []
        self.false: list[list[Match]] = []
        code, first = stretch.at.frames[-1]
        view, false = self.view, self.false
        for line, step in zip(code.lines[first:], stretch.steps, strict=False):
            if step.held is False:
                false.append(failing(view, line))
            else:
                self.held.append((line, step))


class Sights:
    """What rules saw of one packet, stretch by stretch; worked out once, asked for often."""

    def __init__(self) -> None:
        self._known: dict[int, Sight] = {}

    def of(self, stretch: Stretch) -> Sight:
        """What the rules of ``stretch`` saw."""
        found = self._known.get(id(stretch.at))
        if found is None:
            found = self._known[id(stretch.at)] = Sight(stretch)
        return found


def failing(view: View, line: Line) -> list[Match]:
    """The matches of ``line`` that are false for what ``view`` shows; none for another family's."""
    if line.family is not None and line.family is not view.packet.family:
        return []
    known, found = view.known, []
    if len(line.quick) == len(line.matches):
        # Most rules: each match is one interval of a field that is there and known.
        try:
            return [
                match
                for match, (name, first, last, negated) in zip(
                    line.matches, line.quick, strict=True
                )
                if (first <= known[name] <= last) is negated
            ]
        except KeyError:
            pass
    for match in line.matches:
        values = match.values
        if match.mask is None and isinstance(values, IntervalSet) and match.field.label in known:
            value, spans = known[match.field.label], values.spans
            held = spans[0][0] <= value <= spans[0][1] if len(spans) == 1 else value in values
            if held is match.negated:
                found.append(match)
        elif view.ask(match) is False:
            found.append(match)
    return found


def most_telling(matches: list[Match]) -> Match:
    """The one of several reasons that says most."""
    return min(matches, key=lambda match: RANK[match.field])


def fact(view: View, field: Field) -> str:
    """What the packet has for ``field`` there: "uid is 1000"."""
    value = view.packet.value(field)
    if value is None:
        return _LACKS.get(field, f"it has no {field.label}")
    if field in _ADDRESSES:
        return f"{field.label} is {show_address(view.packet.family, int(value))}"
    if field is Field.PROTO:
        return f"it is {PROTO_NAMES.get(int(value), f'protocol {value}')}"
    if field is Field.CTSTATE:
        return f"its connection is {value}"
    if value == "":
        return f"it has no {field.label}"
    return f"{field.label} is {value}"


def reason(view: View, match: Match) -> str:
    """Why ``match`` is false: the fact, and where it helps, what was wanted."""
    value = view.packet.value(match.field)
    if match.field not in _ADDRESSES or not isinstance(value, int) or match.mask is not None:
        return fact(view, match.field)
    wanted = values_in_words(match, view.packet.family)
    if ("/" not in wanted and "-" not in wanted) or len(wanted) > _SHORT:
        return fact(view, match.field)
    no = "" if match.negated else "not "
    return f"{show_address(view.packet.family, value)} is {no}in {wanted}"


def other_family(view: View) -> str:
    """Why a rule for the other family does not hold."""
    return "it is IPv6" if view.packet.family is Family.IP6 else "it is IPv4"
