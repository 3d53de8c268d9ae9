"""E-mail addresses: what may be one."""

from __future__ import annotations

import re
from collections.abc import Sequence

from django.core.exceptions import ValidationError
from django.core.validators import EmailValidator

from apps.core.errors import FieldFault, Invalid

#: Of one workflow.
MAX_ADDRESSES = 20
#: No quotes, no spaces, nothing beyond ASCII: every mail server takes it, and no header can
#: be made of it.
_PLAIN = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]+")
_looks_right = EmailValidator()


def address_fault(text: str) -> str:
    """Why this is no address that mail can go to; "" if it is one."""
    try:
        _looks_right(text)
    except ValidationError:
        right = False
    else:
        right = len(text) <= 254 and _PLAIN.fullmatch(text) is not None
    return "" if right else f"{text[:80]!r} is no e-mail address; write it as name@example.com"


def check_addresses(addresses: Sequence[str], field: str = "addresses") -> list[str]:
    """Addresses as they are kept: each once, in the order given.

    Two that differ in upper and lower case alone are one. Raises Invalid with every fault.
    """
    kept = {each.strip().lower(): each.strip() for each in reversed(addresses)}
    found = [kept[key] for key in dict.fromkeys(each.strip().lower() for each in addresses)]
    faults = [FieldFault(field, fault) for each in found if (fault := address_fault(each))]
    if len(found) > MAX_ADDRESSES:
        faults.append(
            FieldFault(
                field,
                f"there are {len(found)} addresses; {MAX_ADDRESSES} are allowed, and one may be a "
                "mailing list",
            )
        )
    if faults:
        raise Invalid(faults)
    return found


def read_addresses(text: str, field: str = "addresses") -> list[str]:
    """Addresses by commas, spaces or lines. Raises Invalid with every fault."""
    return check_addresses(re.split(r"[\s,;]+", text.strip()) if text.strip() else [], field)
