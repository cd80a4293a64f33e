"""A queue in which keys take turns, so that one busy client delays another by one picture and not by a
hundred.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out within a key; one item of each key in turn. Not safe between threads by itself."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[T]] = OrderedDict()  # the first lane is served next

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def push(self, key: str, item: T) -> None:
        """Add at the end of the key's lane."""
        self._lanes.setdefault(key, deque()).append(item)

    def pop(self) -> T:
        """The next item; IndexError where there is none."""
        if not self._lanes:
            raise IndexError("the queue is empty")
        key, lane = next(iter(self._lanes.items()))
        item = lane.popleft()
        if lane:
            self._lanes.move_to_end(key)
        else:
            del self._lanes[key]
        return item

    def count(self, key: str) -> int:
        """Items of one key."""
        return len(self._lanes.get(key, ()))

    def remove(self, is_unwanted: Callable[[T], bool]) -> None:
        """Drop items; the turns of the rest stay as they are."""
        for key, lane in list(self._lanes.items()):
            kept = deque(item for item in lane if not is_unwanted(item))
            if kept:
                self._lanes[key] = kept
            else:
                del self._lanes[key]

    def in_order(self) -> Iterator[T]:
        """All items as they would be popped if nothing else came."""
        lanes = [list(lane) for lane in self._lanes.values()]
        for turn in range(max(map(len, lanes), default=0)):
            yield from (lane[turn] for lane in lanes if turn < len(lane))
