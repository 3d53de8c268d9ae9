"""Who comes first in a queue."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """Five levels; rows keep the number, people and programs say the name."""

    LOWEST = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    HIGHEST = 4

    @property
    def word(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, word: str) -> Priority:
        """Raises KeyError for a word that is no level."""
        return cls[word.upper()]


#: From the first served to the last, as a person would choose.
PRIORITY_WORDS = [each.word for each in sorted(Priority, reverse=True)]
