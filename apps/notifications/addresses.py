"""Whom a message may be for: an e-mail address, or `channel:` and a channel's name."""

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
#: What a channel's name has before it where an address may stand.
CHANNEL = "channel:"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def channel_in(address: str) -> str:
    """The name of the channel that it means; "" where it is a mail address."""
    return address.removeprefix(CHANNEL) if address.startswith(CHANNEL) else ""


def name_fault(name: str) -> str:
    """Why this can be no channel's name; "" if it can."""
    if _NAME.fullmatch(name):
        return ""
    return (
        f"{name[:80]!r} is no name of a channel; use 1 to 64 small letters, digits, '-' and '_', "
        "a letter or digit first"
    )


def address_fault(text: str) -> str:
    """Why this is no address that a message can go to; "" if it is one."""
    if text.startswith(CHANNEL):
        return name_fault(channel_in(text))
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
    Whether there is a channel, `services.channels.check_channels` says.
    """
    read = [_as_kept(each.strip()) for each in addresses]
    kept = {each.lower(): each for each in reversed(read)}
    found = [kept[key] for key in dict.fromkeys(each.lower() for each in read)]
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


def _as_kept(text: str) -> str:
    return text.lower() if text.lower().startswith(CHANNEL) else text


def read_addresses(text: str, field: str = "addresses") -> list[str]:
    """Addresses by commas, spaces or lines. Raises Invalid with every fault."""
    return check_addresses(re.split(r"[\s,;]+", text.strip()) if text.strip() else [], field)
