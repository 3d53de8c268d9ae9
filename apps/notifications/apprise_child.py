"""Speaks for apprise, as a process of its own that can do nothing else.

    {"url": …, "title": …, "body": …, "type": …, "networks": […], "names": […]}   on its input
    {"sent": true} | {"why": …, "not_allowed": true} | {"service": "Slack", …}      on its output

apprise knows over a hundred services and follows what a URL says: to any host, to a file that is
a template, to programs of the desktop. So it is kept in by audit hooks, which nothing can take
off again: a connection goes only to an address that `apps.core.reach` allows, judged as it is
made; nothing is opened but Python's own files; no program is started. A title of None asks
only whether the URL is one.

Without Django: it has neither settings nor a database to reach.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import signal
import socket
import sys
from typing import Any

from apps.core.reach import Internal, may_reach

#: Ends the process by itself, should whoever started it be gone.
SECONDS = 25
#: Of addresses: an answer is read whole, however long it is.
MEMORY_BYTES = 1 << 30
_NEVER = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pty.", "subprocess."),
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("shutil.", "syslog.", "socket.bind", "ctypes.dlopen", "ctypes.dlsym"),
)


class Fence:
    """What the hook lets through."""

    def __init__(self, internal: Internal) -> None:
        self.internal = internal
        #: Addresses that allowed names led to.
        self.named: set[str] = set()
        #: The first that was turned away, for the message.
        self.refused = ""
        self.readable = tuple({f"{each}/" for each in (sys.prefix, sys.base_prefix)})
        self.host = ""

    def up(self) -> None:
        """From here on, and for good."""
        asked = socket.getaddrinfo

        def getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
            found = asked(host, *rest, **named)
            self.host = str(host)
            for *_, address in found:
                if may_reach(str(address[0]), self.internal, name=str(host)):
                    self.named.add(str(address[0]))
            return found

        socket.getaddrinfo = getaddrinfo
        sys.addaudithook(self.judge)

    def judge(self, event: str, given: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = given[1]
            host = str(address[0]) if isinstance(address, tuple) else ""
            if address is None or host in self.named or may_reach(host, self.internal):
                return
            self.refused = self.refused or self.host or host or "a socket of this machine"
            raise PermissionError(f"{host} is not to be reached")
        if event == "open" and not isinstance(given[0], int):
            path = given[0].decode(errors="replace") if isinstance(given[0], bytes) else given[0]
            writes = bool(given[2] & 0x3) if isinstance(given[2], int) else True
            if writes or not str(path).startswith(self.readable) or "/../" in str(path):
                raise PermissionError("no file is opened for a URL")
        if event.startswith(_NEVER):
            raise PermissionError(f"{event} is not for a URL")


class Heard(logging.Handler):
    """What apprise says of a failure."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def main() -> None:
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    asked = json.load(sys.stdin)
    out = sys.stdout
    import apprise
    import requests.sessions

    # A redirect leads to another address than the one that was given.
    requests.sessions.DEFAULT_REDIRECT_LIMIT = 0
    heard = Heard()
    logging.getLogger("apprise").handlers[:] = [heard]
    logging.getLogger("apprise").setLevel(logging.WARNING)
    fence = Fence(Internal(tuple(asked["networks"]), tuple(asked["names"])))
    fence.up()
    json.dump(speak(apprise, asked, fence, heard), out)


def speak(apprise: Any, asked: dict[str, Any], fence: Fence, heard: Heard) -> dict[str, Any]:
    asset = apprise.AppriseAsset(
        app_id="Runyard", app_desc="Runyard", app_url="", storage_mode="memory", async_mode=False
    )
    plugin = apprise.Apprise.instantiate(asked["url"], asset=asset)
    if plugin is None:
        return {"why": "apprise does not know such a URL, or something is missing in it"}
    if asked["title"] is None:
        return {"service": str(plugin.service_name)}
    sender = apprise.Apprise(asset=asset)
    sender.add(plugin)
    sent = sender.notify(
        title=asked["title"],
        body=asked["body"],
        notify_type=apprise.NotifyType(asked["type"]),
        body_format=apprise.NotifyFormat.TEXT,
    )
    if sent:
        return {"sent": True}
    if fence.refused:
        return {"why": fence.refused, "not_allowed": True}
    why = heard.said[-1] if heard.said else f"{plugin.service_name} did not take it"
    status = re.search(r"error=(\d{3})\b", why)
    return {"why": why, "status": int(status[1]) if status else None}


if __name__ == "__main__":
    main()
