"""What the loops of a compiled kernel are made of, from the listing of its machine code (``cuobjdump --dump-sass``).

A multiprocessor has four schedulers, each of which issues one instruction of a warp in a cycle: a loop of n
instructions takes a block of w warps at least n w / 4 cycles an iteration, however fast its products are.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

__all__ = ["Loop", "longest_loop"]

SCHEDULERS = 4
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,6})\*/\s+(?:@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
_TARGET = re.compile(r"0x([0-9a-f]+)")


class Loop(NamedTuple):
    """``passed_by``: instructions within it that branches can jump over, but for branches over products of the tensor
    cores: masks, say, in tiles that are seen whole. ``names``: how often each instruction stands in it."""

    instructions: int
    passed_by: int
    names: Counter[str]

    def issue_cycles(self, warps: int) -> float:
        """Cycles that issuing one iteration takes a block at least, past those."""
        return (self.instructions - self.passed_by) * warps / SCHEDULERS


def longest_loop(listing: str) -> Loop | None:
    """The loop with the most instructions; None where the kernel has no loop."""
    code = [(int(place, 16), name, rest) for place, name, rest in _INSTRUCTION.findall(listing)]
    jumps = [
        (place, int(found[1], 16))
        for place, name, rest in code
        if name.split(".")[0] == "BRA" and (found := _TARGET.search(rest))
    ]
    # The last instruction of a program is a jump to itself, for padding: no loop.
    loops = [(target, place) for place, target in jumps if target < place]
    if not loops:
        return None
    first, last = max(loops, key=lambda ends: ends[1] - ends[0])
    names = Counter(name.split(".")[0] for place, name, _ in code if first <= place <= last)
    passed_by: set[int] = set()
    for place, target in jumps:
        if first <= place < target <= last:
            over = {between: name for between, name, _ in code if place < between < target}
            if not any("MMA" in name for name in over.values()):
                passed_by |= over.keys()
    return Loop(names.total(), len(passed_by), names)
