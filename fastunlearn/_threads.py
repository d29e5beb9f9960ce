"""Modules belong to all threads, a pass over them to one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["PASS", "of_this_thread"]

#: One pass at a time: two would see each other's hooks and flags, and take out each other's functions; and forward AD
#: has one level for the whole process. Within a pass over samples its thread makes passes of other kinds.
PASS = threading.RLock()


def of_this_thread(hook: Callable) -> Callable:
    """The module hook, deaf to the calls that other threads make of the module meanwhile."""
    own = threading.get_ident()

    def heard(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if threading.get_ident() == own else None

    return heard
