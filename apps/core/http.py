"""Between a page and its fragment, an error and its status."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote, unquote

from django import forms
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils.http import content_disposition_header
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails
from whitenoise.middleware import WhiteNoiseMiddleware

from apps.core.errors import (
    ApplicationError,
    Conflict,
    Denied,
    Invalid,
    NotFound,
    TooMany,
    Unavailable,
)

STATUS: dict[type[ApplicationError], int] = {
    NotFound: 404,
    Denied: 403,
    Conflict: 409,
    Invalid: 422,
    TooMany: 429,
    Unavailable: 503,
}


class Request(HttpRequest):
    """A request that has passed our middleware."""

    htmx: HtmxDetails


def fragment(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """A fragment for htmx, and the same inside a page for everyone else.

    The status is 422 where `context["form"]` was sent with faults; what was typed is in it.
    """
    form = context.get("form")
    status = 422 if isinstance(form, forms.BaseForm) and form.is_bound and form.errors else 200
    if request.htmx:  # type: ignore[attr-defined]
        return render(request, template, context, status=status)
    page = {**context, "fragment": template}
    return render(request, "core/fragment.html", page, status=status)


def page(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """A whole page; 422 as above."""
    form = context.get("form")
    status = 422 if isinstance(form, forms.BaseForm) and form.is_bound and form.errors else 200
    return render(request, template, context, status=status)


def go(request: HttpRequest, url: str) -> HttpResponse:
    """After a change: to this address, whether a form or htmx asked."""
    if request.htmx:  # type: ignore[attr-defined]
        return HttpResponseClientRedirect(url)
    return HttpResponse(status=303, headers={"Location": url})


def number_in(text: str) -> int | None:
    """The number that an address or a form holds, if PostgreSQL can keep it."""
    return int(text) if text.isdecimal() and len(text) < 19 else None


class StaticFilesMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise under ASGI. Its answer is an iterator that is not asynchronous, which Django
    would read whole with a warning for each file; here it is read whole without one."""

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        found = static_file.get_response(request.method, request.META)
        content = b""
        if found.file is not None:
            with found.file as file:
                content = file.read()
        response = HttpResponse(content, status=int(found.status))
        del response["Content-Type"]
        for name, value in found.headers:
            response[name] = value
        return response


class ErrorsMiddleware:
    """Makes a page, or a word for htmx, of an ApplicationError that no view has taken.

    REST and the wire doors translate theirs before they come here.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        # No name and no filter has a NUL, and PostgreSQL refuses one in any of them.
        if "\0" in unquote(request.get_full_path()) and not request.path.startswith("/api/"):
            return render(request, "404.html", status=404)
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, ApplicationError):
            return None
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
        if getattr(request, "htmx", False):
            return HttpResponse(status=status, headers={"X-Error": quote(str(error))})
        if status == 404:
            return render(request, "404.html", status=404)
        faults = error.faults if isinstance(error, Invalid) else ()
        known = getattr(request, "user", None) is not None and request.user.is_authenticated
        frame = "core/shell.html" if known else "core/out.html"
        context = {"status": status, "error": error, "faults": faults, "frame": frame}
        return render(request, "core/refused.html", context, status=status)


def download(
    content: bytes | AsyncIterator[bytes], name: str, *, content_type: str, inline: bool = False
) -> HttpResponse | StreamingHttpResponse:
    """Bytes that someone else made: never run, never rendered as a page of ours."""
    response = (
        HttpResponse(content, content_type=content_type)
        if isinstance(content, bytes)
        else StreamingHttpResponse(content, content_type=content_type)
    )
    response["Content-Disposition"] = content_disposition_header(not inline, name) or "inline"
    response["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return response
