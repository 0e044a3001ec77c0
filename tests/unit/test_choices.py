"""The cheap enumerations behave as the standard library's do, as far as they are used."""

from __future__ import annotations

import copy
import enum
import pickle

import pytest

from meshnet.model.choices import Enum
from meshnet.model.packet import Family, Field
from meshnet.model.rule import Kind
from meshnet.model.spec import Form, Inbound, IPv6, Profile


class Colour(Enum):
    RED = "red"
    BLUE = ("blue", 2)

    def is_red(self) -> bool:
        return self is Colour.RED


class RealColour(enum.Enum):
    RED = "red"
    BLUE = ("blue", 2)


@pytest.mark.parametrize("kind", [Family, Field, Kind, Form, Inbound, IPv6, Profile, Colour])
def test_members_are_what_they_should_be(kind: type) -> None:
    members = list(kind)
    assert members and len(kind) == len(members)
    for member in members:
        assert getattr(kind, member.name) is member
        assert kind(member.value) is member and kind(member) is member
        assert copy.copy(member) is copy.deepcopy(member) is member
        assert pickle.loads(pickle.dumps(member)) is member
        assert {member: 1}[member] == 1
        assert [other == member for other in members].count(True) == 1
    with pytest.raises(ValueError, match="is not a valid"):
        kind("nothing of the kind")
    with pytest.raises(ValueError, match="is not a valid"):
        kind([])
    with pytest.raises(AttributeError):
        setattr(kind, members[0].name, 1)


def test_it_reads_as_the_standard_library_s() -> None:
    assert [(m.name, m.value) for m in Colour] == [(m.name, m.value) for m in RealColour]
    assert repr(Colour.RED) == repr(RealColour.RED).replace("Real", "")
    assert str(Colour.BLUE) == str(RealColour.BLUE).replace("Real", "")
    assert Colour.RED.is_red() and not Colour.BLUE.is_red()
    assert isinstance(Colour.RED, Colour) and Field.DPORT.bits == 16
