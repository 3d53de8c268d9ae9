"""Hides secrets in what a job prints, also where one comes in pieces.

    masker = Masker(["s3cret"])
    masker.feed(b"pass s3c")    # b"pass "
    masker.feed(b"ret\\n")      # b"***\\n"
    masker.end()                # what was held back

Each is found as it is, in base64 wherever it stands in what was encoded, and quoted as in an
address; of a secret of several lines each line too. What a job makes of it otherwise is not.
"""

from __future__ import annotations

import base64
import contextlib
import os
import threading
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MASK = b"***"
_LEAST = 6
#: Held back at most, beyond the longest secret: one that is repeated without an end holds on.
_HELD_BYTES = 1 << 20
_CHUNK = 1 << 16


def forms_of(value: str) -> set[bytes]:
    """All that is hidden for one secret."""
    found: set[bytes] = set()
    for text in {value, value.strip(), *value.splitlines()}:
        if len(text) < _LEAST:
            continue
        raw = text.encode()
        found |= {
            raw,
            quote(text).encode(),
            quote(text, safe="").encode(),
            quote_plus(text).encode(),
        }
        for before in range(3):
            # The characters at either end depend on what stands beside the secret.
            whole = base64.b64encode(bytes(before) + raw)
            first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
            if last - first >= _LEAST:
                core = whole[first:last]
                found |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return found


class Masker:
    def __init__(self, values: Iterable[str]) -> None:
        self._forms = sorted(set().union(*map(forms_of, values)), key=len, reverse=True)
        self._longest = max(map(len, self._forms), default=0)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be shown by now: all but an end that may be the beginning of a secret."""
        text = self._held + data
        hidden = self._hidden(text)
        keep = self._beginning(text)
        for start, end in hidden:
            if start < keep < end:
                keep = start  # what begins there may go on behind it
        if len(text) - keep > self._longest + _HELD_BYTES:
            keep = len(text) - self._longest
        self._held = text[keep:]
        return self._masked(text[:keep], [(a, min(b, keep)) for a, b in hidden if a < keep])

    def end(self) -> bytes:
        """What was held back: no more comes."""
        text, self._held = self._held, b""
        return self._masked(text, self._hidden(text))

    def _hidden(self, text: bytes) -> list[tuple[int, int]]:
        """Where secrets stand, as ranges that do not overlap."""
        found = []
        for form in self._forms:
            at = text.find(form)
            while at >= 0:
                found.append((at, at + len(form)))
                at = text.find(form, at + 1)
        joined: list[tuple[int, int]] = []
        for start, end in sorted(found):
            if joined and start < joined[-1][1]:
                joined[-1] = joined[-1][0], max(joined[-1][1], end)
            else:
                joined.append((start, end))
        return joined

    def _beginning(self, text: bytes) -> int:
        """From where on the end of `text` may be the beginning of a secret."""
        keep = len(text)
        for form in self._forms:
            at = text.find(form[:1], max(len(text) - len(form) + 1, 0), keep)
            while at >= 0:
                if form.startswith(text[at:]):
                    keep = at
                    break
                at = text.find(form[:1], at + 1, keep)
        return keep

    @staticmethod
    def _masked(text: bytes, hidden: list[tuple[int, int]]) -> bytes:
        parts, at = [], 0
        for start, end in hidden:
            parts += [text[at:start], MASK]
            at = end
        return b"".join([*parts, text[at:]])


class MaskedPipe:
    """A pipe that a child prints to, and a thread that writes on what came, without secrets."""

    def __init__(self, values: Iterable[str], log: int, uid: int | None) -> None:
        """`log` is a descriptor, of which it makes one of its own."""
        self._out, self.child_end = os.pipe2(os.O_CLOEXEC)
        if uid is not None:
            # Programs that open /dev/stderr open the pipe anew, under the job's own rights.
            os.fchown(self.child_end, uid, uid)
        self._masker = Masker(values)
        self._log = os.dup(log)
        self._thread = threading.Thread(target=self._copy, name="masking", daemon=True)

    def start(self) -> None:
        """The child has its end: from now on it alone holds the pipe open."""
        os.close(self.child_end)
        self._thread.start()

    def give_up(self) -> None:
        """There is no child."""
        os.close(self.child_end)
        os.close(self._out)
        os.close(self._log)

    def drain(self, seconds: float) -> bool:
        """Wait for the end of what comes; False: something still holds the pipe."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _copy(self) -> None:
        try:
            while data := os.read(self._out, _CHUNK):
                self._put(self._masker.feed(data))
        finally:
            self._put(self._masker.end())
            os.close(self._out)
            os.close(self._log)

    def _put(self, data: bytes) -> None:
        if data:
            # A full disk loses lines, as it does where the child writes by itself; the child
            # goes on.
            with contextlib.suppress(OSError):
                while data:
                    data = data[os.write(self._log, data) :]
