"""The cheap dataclasses behave as the standard library's do."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from typing import Any

import pytest

import meshnet
from meshnet.model import frozen
from meshnet.model.packet import Family
from meshnet.model.rule import RETURN, Rule
from meshnet.model.spec import CaptureSpec, Cidr


def frozen_classes() -> list[type]:
    found = set()
    for module in pkgutil.walk_packages(meshnet.__path__, "meshnet."):
        if module.name.rpartition(".")[2] == "__main__":
            continue
        for _, thing in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if "_compared" in vars(thing):
                found.add(thing)
    return sorted(found, key=lambda c: c.__qualname__)


def twin(cls: type) -> Any:
    """The same class, made by the standard library."""
    members: dict[str, Any] = {"__annotations__": cls.__annotations__}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            members[field.name] = dataclasses.field(default=field.default, compare=field.compare)
    return dataclasses.dataclass(frozen=True)(type(cls.__name__, (), members))


def test_there_are_classes_to_compare() -> None:
    assert {CaptureSpec, Rule, Cidr} <= set(frozen_classes())


@pytest.mark.parametrize("cls", frozen_classes())
def test_a_class_is_what_the_standard_library_would_make(cls: type) -> None:
    names = [f.name for f in dataclasses.fields(cls)]
    assert dataclasses.is_dataclass(cls) and names == list(cls.__annotations__)
    values = {name: (name, 1) for name in names}
    one, other, real = cls(**values), cls(*values.values()), twin(cls)(**values)
    assert one == other and hash(one) == hash(other) and one is not other
    assert repr(one).partition("(")[2] == repr(real).partition("(")[2]
    assert dataclasses.asdict(one) == dataclasses.asdict(real)
    for field in dataclasses.fields(cls):
        changed = {field.name: "changed"}
        assert dataclasses.replace(one, **changed) == frozen.replace(one, **changed)
        assert (frozen.replace(one, **changed) == one) is not field.compare
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field.name, 1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(one, field.name)
    for wrong in ({**values, "unknown": 1}, {}):
        for kind in (cls, twin(cls)):
            try:
                kind(**wrong)
            except TypeError:
                refused = True
            else:
                refused = False
            if kind is cls:
                ours = refused
        assert ours is refused


def test_too_many_or_repeated_values_are_refused() -> None:
    with pytest.raises(TypeError):
        Cidr(Family.IP, 1, 2, 3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Cidr(Family.IP, 1, 2, length=3)  # type: ignore[misc]


def test_counters_and_reasons_do_not_tell_rules_apart() -> None:
    assert Rule((), RETURN, id="a", packets=4) == Rule((), RETURN, why="b")
    assert Rule((), RETURN, comment="a") != Rule((), RETURN)
