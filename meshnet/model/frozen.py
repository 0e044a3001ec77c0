"""Frozen dataclasses that cost next to nothing to define.

The standard library's decorator writes source code for each class and compiles it, and its
module imports ``inspect`` for that: together more than half of the instructions of a whole
``meshnet-init`` run (docs/performance.md). This one makes the same methods from closures.

To type checkers these names are the standard library's. At run time a class is a dataclass
to everybody who asks: ``dataclasses.fields``, ``replace``, ``asdict`` and ``is_dataclass``
work, and only then is the real module imported. A test holds both side by side.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import replace as replace
else:

    class field:
        """A field with a default; it is left out of comparisons where ``compare`` is False."""

        def __init__(self, *, default, compare=True):
            self.default = default
            self.compare = compare

    class _Fields:
        """Answers ``__dataclass_fields__`` and ``__dataclass_params__`` by the real decorator."""

        def __init__(self, name):
            self.name = name

        def __get__(self, instance, owner):
            import dataclasses

            members = {
                "__annotations__": dict(owner.__annotations__),
                "__module__": owner.__module__,
            }
            for name, default in owner._defaults.items():
                compare = name in owner._compared
                members[name] = dataclasses.field(default=default, compare=compare)
            twin = dataclasses.dataclass(frozen=True)(type(owner.__name__, (), members))
            # Kept: who asks for one value often asks for fifty thousand.
            setattr(owner, self.name, getattr(twin, self.name))
            return getattr(twin, self.name)

    def dataclass(*, frozen):
        """Make a class a frozen dataclass: init, equality, hash, repr, no assignment."""
        if not frozen:
            raise TypeError("every dataclass here is frozen")
        return _freeze

    def _freeze(cls):
        names = tuple(cls.__annotations__)
        defaults = {}
        compared = list(names)
        for name in names:
            if name in cls.__dict__:
                default = cls.__dict__[name]
                if isinstance(default, field):
                    if not default.compare:
                        compared.remove(name)
                    default = default.default
                    setattr(cls, name, default)
                defaults[name] = default
        cls._defaults, cls._compared = defaults, tuple(compared)
        cls.__match_args__ = names
        for attribute in ("__dataclass_fields__", "__dataclass_params__"):
            setattr(cls, attribute, _Fields(attribute))
        methods = _methods(cls, names, defaults, tuple(compared))
        for name, method in methods.items():
            setattr(cls, name, method)
        return cls

    def _methods(cls, names, defaults, compared):
        required = tuple(name for name in names if name not in defaults)

        def __init__(self, *values, **named):
            state = self.__dict__
            if len(values) == len(names) and not named:
                state.update(zip(names, values, strict=True))
                return
            state.update(defaults)
            if values:
                if len(values) > len(names):
                    raise TypeError(f"{cls.__name__} takes at most {len(names)} values")
                state.update(zip(names, values, strict=False))
            for name in named:
                if name not in names or name in names[: len(values)]:
                    raise TypeError(f"{cls.__name__} got an unexpected or repeated {name!r}")
            state.update(named)
            for name in required:
                if name not in state:
                    raise TypeError(f"{cls.__name__} lacks {name!r}")

        def key(self):
            state = self.__dict__
            return tuple([state[name] for name in compared])

        def __eq__(self, other):
            if other.__class__ is not cls:
                return NotImplemented
            return self is other or key(self) == key(other)

        def __hash__(self):
            return hash(key(self))

        def __repr__(self):
            state = self.__dict__
            return f"{cls.__qualname__}({', '.join(f'{n}={state[n]!r}' for n in names)})"

        def __setattr__(self, name, value):
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot assign to field {name!r}")

        def __delattr__(self, name):
            from dataclasses import FrozenInstanceError

            raise FrozenInstanceError(f"cannot delete field {name!r}")

        return {
            "__init__": __init__,
            "__eq__": __eq__,
            "__hash__": __hash__,
            "__repr__": __repr__,
            "__setattr__": __setattr__,
            "__delattr__": __delattr__,
        }

    def replace(instance, **changes):
        """A copy of ``instance`` with the given fields changed."""
        cls = type(instance)
        for name in changes:
            if name not in cls.__match_args__:
                raise TypeError(f"{cls.__name__} has no field {name!r}")
        made = object.__new__(cls)
        made.__dict__.update(instance.__dict__, **changes)
        return made
