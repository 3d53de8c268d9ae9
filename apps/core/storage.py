"""Where bytes are kept under their sha256."""

from __future__ import annotations

import os
import secrets

from django.core.files.base import File
from django.core.files.storage import FileSystemStorage


class WholeFiles(FileSystemStorage):
    """A folder in which a file has its name only once all of it is there.

    A save that fails half-way, on a full disk or with its process, leaves nothing under the
    name; of two saves of one name at once either stays, since both have the same bytes.
    """

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return name

    def _save(self, name: str, content: File[bytes]) -> str:
        # Django's documented hook; its stubs leave it out.
        save = super()._save  # type: ignore[misc]
        part = save(f"{name}.{secrets.token_hex(8)}", content)
        try:
            os.replace(self.path(part), self.path(name))
        except OSError:
            self.delete(part)
            raise
        return name
