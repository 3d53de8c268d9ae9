"""Signed webhooks, as https://www.standardwebhooks.com/ has them.

A receiver checks `webhook-signature` with the channel's secret, turns away what is older than a
few minutes by `webhook-timestamp`, and takes a message that comes again for the same by
`webhook-id`. Libraries for that exist in most languages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from datetime import datetime

from apps.core.outgoing import NotAllowed, NotReached, call
from apps.notifications.models import Delivery
from apps.notifications.verdicts import Deferred, Refused

_PREFIX = "whsec_"
_LEAST_BYTES, _MOST_BYTES = 24, 64
#: Refusals that say "not now": too slow, too early, too many.
_NOT_NOW = {408, 425, 429}


def new_secret() -> str:
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def secret_fault(text: str) -> str:
    """Why this can be no secret of a webhook; "" if it can."""
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if text.startswith(_PREFIX) and _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        return ""
    return (
        f"the secret is {_PREFIX} and {_LEAST_BYTES} to {_MOST_BYTES} random bytes in base64, as "
        f"from: echo {_PREFIX}$(openssl rand -base64 32)"
    )


def id_of(delivery: Delivery) -> str:
    """The same at each try: by it a receiver knows what it has had."""
    return delivery.message_id.strip("<>").partition("@")[0].removeprefix("runyard.")


def body_of(delivery: Delivery) -> bytes:
    """What is posted. Two of one delivery are alike to the last byte."""
    body = {
        "id": id_of(delivery),
        "type": delivery.kind,
        "timestamp": delivery.created_at.isoformat(),
        "workspace": delivery.workspace.name,
        "subject": delivery.subject,
        "text": delivery.text,
        "data": delivery.facts,
    }
    return json.dumps(body, sort_keys=True).encode()


def signature_of(secret: str, name: str, at: int, body: bytes) -> str:
    """`at`: Unix time of the try, in seconds."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    signed = f"{name}.{at}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def send(delivery: Delivery, *, url: str, secret: str, at: datetime) -> None:
    """Post it, once; `at` is when this try began. Raises Deferred, Refused."""
    body, seconds = body_of(delivery), int(at.timestamp())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": id_of(delivery),
        "webhook-timestamp": str(seconds),
        "webhook-signature": signature_of(secret, id_of(delivery), seconds, body),
    }
    try:
        answer = call("POST", url, headers=headers, body=body)
    except NotReached as error:
        raise Deferred(str(error)) from error
    except (NotAllowed, ValueError) as error:
        raise Refused(str(error)) from error
    if 200 <= answer.status < 300:
        return
    said = f"the receiver answered {answer}"
    if 300 <= answer.status < 400:
        raise Refused(f"{said}; redirects are not followed, give the channel the final URL")
    if 400 <= answer.status < 500 and answer.status not in _NOT_NOW:
        raise Refused(said)
    raise Deferred(said)
