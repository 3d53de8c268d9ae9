"""Secrets of a workspace: set, deleted, given to its jobs, and never read back.

Each is encrypted (AES-256-GCM) with a key outside the database, for its own workspace and name:
a copy of the database gives none away, and a row that was moved to another name does not open.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.db.models.functions import Now

from apps.core.errors import Invalid, NotFound
from apps.engine.timevars import BUILT_IN, NAME
from apps.workspaces.models import Secret, User, Workspace

#: A shorter one would stand in half the words of a log, and could not be hidden there.
LEAST_CHARACTERS = 6
MOST_BYTES = 16 * 1024
_NAME_LENGTH = 64
_NONCE_BYTES = 12


class Unreadable(Exception):
    """A secret that this machine's key does not open. The message names it, and the fix."""


def set_secret(workspace: Workspace, name: str, value: str, *, user: User | None) -> Secret:
    """Make or replace one; jobs that start from now on get it. Raises Invalid."""
    if not NAME.fullmatch(name) or len(name) > _NAME_LENGTH or name.startswith("RUNYARD_"):
        raise Invalid(
            f"{name!r} is no name of a secret; write it as DATABASE_PASSWORD, without RUNYARD_",
            "name",
        )
    if name in BUILT_IN:
        raise Invalid(f"{name} is a time variable of every job; choose another name", "name")
    if "\0" in value:
        raise Invalid("the value holds a NUL character; take it out", "value")
    if len(value) < LEAST_CHARACTERS:
        raise Invalid(
            f"the value is shorter than {LEAST_CHARACTERS} characters and could not be hidden in "
            "logs; take a longer one",
            "value",
        )
    if len(value.encode()) > MOST_BYTES:
        raise Invalid(f"the value has more than {MOST_BYTES:,} bytes; take a shorter one", "value")
    sealed = seal(workspace.pk, name, value)
    row, _ = Secret.objects.update_or_create(
        workspace=workspace,
        name=name,
        defaults={"sealed": sealed, "changed_by": user, "changed_at": Now()},
    )
    row.refresh_from_db()
    return row


def delete_secret(workspace: Workspace, name: str) -> None:
    """Jobs that name it fail at their start from now on. Raises NotFound."""
    if not Secret.objects.filter(workspace=workspace, name=name).delete()[0]:
        raise NotFound(f"there is no secret {name!r} in this workspace")


def secret_values(workspace_id: int, names: Iterable[str]) -> Mapping[str, str]:
    """The values of those that there are, for a worker. Raises Unreadable."""
    rows = Secret.objects.filter(workspace=workspace_id, name__in=list(names))
    return {
        name: unseal(workspace_id, name, sealed)
        for name, sealed in rows.values_list("name", "sealed")
    }


def seal(workspace_id: int, name: str, value: str) -> bytes:
    """Encrypt a value for this workspace and name: nowhere else it can be read.

    Names of secrets hold neither space nor slash, so that other things have names of their own.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher().encrypt(nonce, value.encode(), _place(workspace_id, name))


def unseal(workspace_id: int, name: str, sealed: bytes | memoryview) -> str:
    """What was sealed under this name. Raises Unreadable."""
    nonce, rest = bytes(sealed[:_NONCE_BYTES]), bytes(sealed[_NONCE_BYTES:])
    try:
        return _cipher().decrypt(nonce, rest, _place(workspace_id, name)).decode()
    except InvalidTag:
        raise Unreadable(
            f"the secret {name} was set with another key; give this worker the same "
            "RUNYARD_SECRETS_KEY or home, or set the secret anew"
        ) from None


def _cipher() -> AESGCM:
    key = settings.SECRETS_KEY or settings.HOME.secrets_key()
    return AESGCM(hashlib.sha256(key.encode()).digest())


def _place(workspace_id: int, name: str) -> bytes:
    return f"{workspace_id}/{name}".encode()
