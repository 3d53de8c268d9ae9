"""Workspace files: a path, and bytes that lie under their sha256."""

from __future__ import annotations

import hashlib
import re
import tempfile
from datetime import timedelta
from pathlib import PurePosixPath
from typing import IO

from django.core.files.base import File as Stored
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils import timezone

from apps.core.errors import Invalid
from apps.nodes.kinds.fields import path_fault
from apps.nodes.models import File
from apps.workspaces.models import User, Workspace

_CHUNK = 1 << 20
#: Bytes that lie there longer are written anew when they are stored again: what nothing has named
#: for twice as long is removed, by their age.
REUSED_HOURS = 12
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: A path stands in headers and lists, where a line end would be read as one.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_path(path: str, field: str = "path") -> str:
    """The path itself, if it is one inside a workspace. Raises Invalid."""
    if fault := path_fault(path):
        raise Invalid(f"the path {fault}", field)
    if _CONTROL.search(path):
        raise Invalid("the path holds a control character; take it out", field)
    if len(path) > 255:
        raise Invalid(f"the path has {len(path)} characters; 255 are allowed", field)
    return path


def blob_name(sha256: str) -> str:
    """Where bytes lie in the storage. Names are hashes, so nothing a user types gets there."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is no sha256")
    return f"{sha256[:2]}/{sha256}"


class TooLarge(Exception):
    """There are more bytes than the caller allows."""


def store(content: IO[bytes], *, most: int | None = None) -> tuple[str, int]:
    """Keep these bytes, at most `most` of them; their sha256 and size. The same are kept once.

    Read once, into a file of ours: whoever owns what is read may change it meanwhile, and
    what is kept has to be what was hashed. Raises TooLarge.
    """
    hashed, size = hashlib.sha256(), 0
    content.seek(0)
    with tempfile.TemporaryFile() as own:
        while chunk := content.read(_CHUNK):
            size += len(chunk)
            if most is not None and size > most:
                raise TooLarge
            hashed.update(chunk)
            own.write(chunk)
        name = blob_name(hashed.hexdigest())
        if not _is_young(name):
            own.seek(0)
            default_storage.save(name, Stored(own))
    return hashed.hexdigest(), size


def _is_young(name: str) -> bool:
    """Whether these bytes lie there and are in no danger of being taken for forgotten."""
    if not default_storage.exists(name):
        return False
    limit = timezone.now() - timedelta(hours=REUSED_HOURS)
    return bool(default_storage.get_modified_time(name) > limit)


def open_blob(sha256: str) -> Stored[bytes]:
    """The bytes under a hash. Raises FileNotFoundError."""
    return default_storage.open(blob_name(sha256))


def put_file(workspace: Workspace, path: str, content: IO[bytes], *, user: User | None) -> File:
    """Upload a file, or a new state of it. Published versions keep the bytes that they had.

    Raises Invalid for a path that could not lie beside the others in one folder.
    """
    check_path(path)
    sha256, size = store(content)
    with transaction.atomic():
        # Of two who upload `a` and `a/b` at once, one is told.
        Workspace.objects.select_for_update(no_key=True).get(pk=workspace.pk)
        _check_place(workspace, path)
        file, _ = File.objects.update_or_create(
            workspace=workspace,
            path=path,
            defaults={"sha256": sha256, "size": size, "uploaded_by": user},
        )
    return file


def _check_place(workspace: Workspace, path: str) -> None:
    """Raise Invalid where the path is a folder of other files, or lies below a file."""
    files = File.objects.filter(workspace=workspace).order_by("path")
    above = [str(folder) for folder in PurePosixPath(path).parents]
    if file := files.filter(path__in=above).first():
        raise Invalid(
            f"{file.path!r} is a file, and nothing can lie below it; choose another path, or "
            "delete that file first",
            "path",
        )
    if file := files.filter(path__startswith=f"{path}/").first():
        raise Invalid(
            f"{path!r} is a folder, with {file.path!r} in it; choose another path, or delete what "
            "is in it first",
            "path",
        )


def delete_file(file: File) -> None:
    """Remove a path. Published job versions keep the bytes that they had."""
    file.delete()
