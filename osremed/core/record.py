"""`@record`: a frozen dataclass, slotted where the interpreter can (Python 3.10+; the host plane's floor is 3.9)."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    T = TypeVar("T")

    @dataclass_transform(frozen_default=True, field_specifiers=(field,))
    def record(cls: type[T]) -> type[T]: ...

else:
    _SLOTS: dict[str, Any] = {"slots": True} if sys.version_info >= (3, 10) else {}

    def record(cls: type) -> type:
        return dataclass(frozen=True, **_SLOTS)(cls)


__all__ = ["field", "record"]
