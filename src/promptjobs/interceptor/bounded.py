"""A mapping of bounded size."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Name, Value]):
    """A mapping that forgets what was longest unused."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: OrderedDict[Name, Value] = OrderedDict()

    def __contains__(self, name: Name) -> bool:
        return name in self._items

    def __getitem__(self, name: Name) -> Value:
        return self._items[name]

    def get(self, name: Name) -> Value | None:
        found = self._items.get(name)
        if found is not None:
            self._items.move_to_end(name)
        return found

    def put(self, name: Name, value: Value) -> Value:
        self._items[name] = value
        self._items.move_to_end(name)
        if len(self._items) > self._size:
            self._items.popitem(last=False)
        return value

    def drop(self, name: Name) -> None:
        self._items.pop(name, None)

    def items(self) -> Iterable[tuple[Name, Value]]:
        return self._items.items()
