"""Enumerations that cost next to nothing to define.

The standard library's ``enum`` brings functools, collections and more with it: a fifth of the
time that a whole ``meshnet-init`` run may take (docs/performance.md). To type checkers this
name is the standard library's; at run time a class has members with ``name`` and ``value``,
is iterated in their order, and is called with a value to find one. A test holds it to enum.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from enum import Enum as Enum
else:

    class _Members(type):
        """Turns the public attributes of a class body into its members."""

        def __new__(meta, name, bases, body):
            values = {
                key: value
                for key, value in body.items()
                if not key.startswith("_") and not callable(value) and not hasattr(value, "__get__")
            }
            rest = {key: value for key, value in body.items() if key not in values}
            cls = super().__new__(meta, name, bases, rest)
            cls._members = {}
            for key, value in values.items():
                member = object.__new__(cls)
                member.name, member.value = key, value
                if "__init__" in body:
                    member.__init__(*value)
                type.__setattr__(cls, key, member)
                cls._members[value] = member
            return cls

        def __iter__(cls):
            return iter(cls._members.values())

        def __len__(cls):
            return len(cls._members)

        def __contains__(cls, value):
            return isinstance(value, cls)

        def __call__(cls, value):
            if isinstance(value, cls):
                return value
            try:
                return cls._members[value]
            except (KeyError, TypeError):
                raise ValueError(f"{value!r} is not a valid {cls.__name__}") from None

        def __setattr__(cls, key, value):
            if key != "_members" and key in getattr(cls, "__dict__", {}):
                raise AttributeError(f"cannot reassign member {key!r}")
            super().__setattr__(key, value)

    class Enum(metaclass=_Members):
        """A closed set of named values, each the only one of its kind."""

        def __repr__(self):
            return f"<{type(self).__name__}.{self.name}: {self.value!r}>"

        def __str__(self):
            return f"{type(self).__name__}.{self.name}"

        def __copy__(self):
            return self

        def __deepcopy__(self, memo):
            return self

        def __reduce__(self):
            return type(self), (self.value,)
