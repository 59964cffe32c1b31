"""``NamedTuple`` as in typing, without importing typing, which costs the master a megabyte and five milliseconds.

Type checkers are shown typing's own (``if TYPE_CHECKING`` in the modules that use this one).
"""

from __future__ import annotations

from collections import namedtuple


class _Meta(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], members: dict[str, object]) -> type:
        if not bases:
            return super().__new__(mcs, name, bases, members)
        fields = list(members.get("__annotations__", ()))  # type: ignore[call-overload]  # a dict, in order
        defaults = [members.pop(field) for field in fields if field in members]
        record = namedtuple(name, fields, defaults=defaults, module=members["__module__"])  # type: ignore[misc,arg-type]
        record.__doc__ = members.get("__doc__")  # type: ignore[assignment]
        for member in members.keys() - {*fields, "__annotations__", "__module__", "__qualname__", "__doc__"}:
            setattr(record, member, members[member])  # methods and properties
        return record


class NamedTuple(metaclass=_Meta):
    """Base of a tuple with named fields: annotated names, the last of them with defaults."""
