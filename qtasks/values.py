"""`dataclass` for the values that are made several times for every task.

A frozen dataclass sets each field by a call of its own, which costs ten times what making a plain one does:
on the way of a task that would be a third of all. So these are frozen for the type checkers, which look at
all of our code, and plain when it runs. See `docs/decisions/019-values-frozen-for-type-checkers.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    import dataclasses

    def dataclass(*, frozen: bool = False, **options: Any) -> Any:
        """Do what dataclasses do; what is frozen can be hashed, and would not notice an assignment."""
        return dataclasses.dataclass(unsafe_hash=frozen, **options)
