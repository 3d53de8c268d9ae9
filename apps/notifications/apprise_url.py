"""Messages to the services that apprise knows (Slack, Teams, DingTalk, PagerDuty, …), by its URLs.

apprise itself is loaded neither by workers nor by web processes: a process of its own speaks for
it, which can reach nothing but what a message may go to (apps.notifications.apprise_child).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any
from urllib.parse import unquote, unquote_plus

from django.conf import settings

from apps.notifications.models import Delivery, Kind
from apps.notifications.verdicts import Deferred, Refused

#: What a message may take; it is longer than for a webhook, since some services need three calls.
SECONDS = 20
MAX_URL = 2_000
_MAIN = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from apps.notifications.apprise_child import main; main()"
)
#: How a message looks where the service has colours for it.
_TYPES = {Kind.OPENED: "failure", Kind.RECOVERED: "success"}
_NOT_NOW = {408, 425, 429}


def check(url: str) -> str:
    """Where it leads, as people may see it: "Slack, slack://…". Raises ValueError, without the
    URL, for what apprise does not know."""
    if len(url) > MAX_URL:
        raise ValueError(f"the URL has more than {MAX_URL:,} characters")
    scheme = re.match(r"([a-z0-9]+)://\S", url, re.I)
    if scheme is None or re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError("this is no URL of apprise; write it as slack://token_a/token_b/token_c")
    said = _ask(url, None, "", "info")
    if "service" not in said:
        raise ValueError(str(said["why"]))
    return f"{said['service']}, {scheme[1].lower()}://…"


def send(delivery: Delivery, *, url: str) -> None:
    """Hand it to the service, once. Raises Deferred, Refused."""
    brief = delivery.text.partition("\n--\n")[0].strip()  # without the foot of a mail
    try:
        said = _ask(url, delivery.subject, brief, _TYPES.get(Kind(delivery.kind), "info"))
    except ValueError as error:
        raise Deferred(str(error)) from error
    if said.get("sent"):
        return
    if said.get("not_allowed"):
        raise Refused(
            f"{said['why']} is not on the public internet; messages go there only where "
            "RUNYARD_INTERNAL_RECEIVERS names it"
        )
    why = _without_tokens(str(said["why"]), url)
    status = said.get("status")
    if isinstance(status, int) and 400 <= status < 500 and status not in _NOT_NOW:
        raise Refused(why)
    raise Deferred(why)


def _ask(url: str, title: str | None, body: str, kind: str) -> dict[str, Any]:
    """What the process says. Raises ValueError where it says nothing."""
    internal = settings.INTERNAL_RECEIVERS
    asked = {
        "url": url,
        "title": title,
        "body": body,
        "type": kind,
        "networks": internal.networks,
        "names": internal.names,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _MAIN, str(settings.BASE_DIR)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={"LANG": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise ValueError(f"it took longer than {SECONDS} s") from None
    except (OSError, ValueError):
        raise ValueError("the process that speaks for apprise ended without a word") from None
    return answer


def _without_tokens(said: str, url: str) -> str:
    """As they stand in the URL and as they are meant; the host alone may be named."""
    rest = url.partition("://")[2]
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].partition(":")[0]
    shown = {host} if "." in host else set()
    written = set(re.split(r"[/:@?&=,+#]+", rest))
    parts = written | {unquote(part) for part in written} | {unquote_plus(part) for part in written}
    for part in sorted(parts - shown, key=len, reverse=True):  # one may stand within another
        if len(part) >= 6:
            said = said.replace(part, "***")
    return said.rstrip(".")
