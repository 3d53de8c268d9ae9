"""Tags of workflows: what may be one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from apps.core.errors import FieldFault, Invalid

MAX_TAGS = 50
_WORD = re.compile(r"\w[\w.-]{0,63}", re.ASCII)
_RULE = "use 1 to 64 letters (a to z, A to Z), digits, '_', '-' and '.'; '-' and '.' not first"


def read_tag(text: str, field: str = "tag") -> tuple[str, str]:
    """`key=value` or `key` in its two parts; the value is "" where there is none.

    Raises Invalid.
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    faults = _word_fault("key", key) + (_word_fault("value", value) if equals else [])
    if faults:
        raise Invalid([FieldFault(field, f"tag {text.strip()!r}: {fault}") for fault in faults])
    return key, value


def read_tags(text: str) -> dict[str, str]:
    """`team=finance, tier=gold`, by commas or lines. Raises Invalid with every fault."""
    tags: dict[str, str] = {}
    faults: list[FieldFault] = []
    for part in filter(str.strip, re.split(r"[,\n]", text)):
        key, _, value = (word.strip() for word in part.partition("="))
        if key in tags:
            faults.append(FieldFault("tags", f"tag {key!r} is there twice; a key has one value"))
        tags[key] = value
    return check_tags(tags, faults)


def check_tags(tags: Mapping[str, str], faults: list[FieldFault] | None = None) -> dict[str, str]:
    """Tags as they are kept, by key. Raises Invalid with these faults and every other one."""
    faults = list(faults or [])
    if len(tags) > MAX_TAGS:
        faults.append(FieldFault("tags", f"there are {len(tags)} tags; {MAX_TAGS} are allowed"))
    for key, value in tags.items():
        wrong = _word_fault("key", key) + _word_fault("value", value)
        faults += [FieldFault("tags", f"tag {key!r}: {fault}") for fault in wrong]
    if faults:
        raise Invalid(faults)
    return dict(sorted(tags.items()))


def _word_fault(what: str, word: str) -> list[str]:
    if not word:
        return [f"it has no {what}; write key=value"]
    return [] if _WORD.fullmatch(word) else [f"the {what} {word[:80]!r} is not allowed; {_RULE}"]
