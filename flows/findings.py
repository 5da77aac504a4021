"""What a check of the doctor finds."""

from dataclasses import dataclass
from typing import Literal

State = Literal["good", "warning", "wrong"]
MARK: dict[State, str] = {"good": "ok   ", "warning": "note ", "wrong": "WRONG"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw, and what to do about it."""

    state: State
    said: str
