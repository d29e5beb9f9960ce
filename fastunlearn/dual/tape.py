"""The tape: what has to be undone in the reverse sweep, in the order in which it was done."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .values import Slot

__all__ = ["Tape"]

Adjoints = tuple[Tensor | None, Tensor | None]


class Tape:
    """Pairs of result slots and a function that hands their adjoints on to the slots of the arguments.

    A backward function of one result takes ``(g, h)``; of several, a list of such pairs.
    """

    def __init__(self) -> None:
        self._nodes: list[tuple[Slot | tuple[Slot, ...], Callable]] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def append(self, slots: Slot | tuple[Slot, ...], backward: Callable) -> None:
        """One more operation, with the slot (or slots) of its result."""
        self._nodes.append((slots, backward))

    def reverse(self) -> None:
        """The reverse sweep. Each operation is forgotten, and its saved tensors with it, once it is done."""
        nodes = self._nodes
        while nodes:
            slots, backward = nodes.pop()
            if type(slots) is tuple:
                adjoints = [slot.take() for slot in slots]
                if any(g is not None or h is not None for g, h in adjoints):
                    backward(adjoints)
            else:
                g, h = slots.take()
                if g is not None or h is not None:
                    backward(g, h)
