"""What all of /api/v1/ does alike: logging in, problems, bodies, pages, its description."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404
from django.template import Context, Template
from django.test import Client
from django.urls import include, path
from django.utils import timezone
from rest_framework import serializers
from rest_framework.response import Response

from apps.core.api import endpoint
from apps.core.api.description import description
from apps.core.api.endpoint import Endpoint
from apps.core.api.fields import Flag, Number, Strict, Text, Whole, written
from apps.core.api.operation import operation
from apps.core.api.problems import PROBLEM
from apps.core.errors import ApplicationError, Conflict
from apps.engine.roles import Permission, Role
from apps.workspaces.models import ApiToken, TokenScope
from apps.workspaces.services import create_token
from tests import factories
from tests.api import PASSWORD, Program, program, queries, user, world

pytestmark = pytest.mark.django_db

LOGIN = {"username": "maya", "password": PASSWORD, "name": "nightly build"}


def login(**changes):
    return Program().post("/api/v1/token", {**LOGIN, **changes})


# --- tokens ---------------------------------------------------------------------------------


def test_login_gives_a_token_that_reads_and_of_which_only_the_digest_is_kept():
    user("maya", Role.OWNER)
    before = timezone.now()

    response = login()

    given = response.json()
    token = ApiToken.objects.get()
    assert response.status_code == 201
    assert response["Cache-Control"] == "no-store"
    assert bytes(token.digest) == hashlib.sha256(given["token"].encode()).digest()
    assert (token.user.username, token.name, token.scope, token.workspace) == (
        "maya",
        "nightly build",
        "read",
        None,
    )
    assert timedelta(days=90) <= token.expires_at - before < timedelta(days=90, minutes=1)
    assert set(given) == {"token", "name", "scope", "workspace", "expires_at"}
    assert Program(given["token"]).get().status_code == 200
    assert Program(given["token"]).post("queues", {}).status_code == 403


def test_login_may_bind_the_token_to_a_workspace_and_a_time():
    user("maya", Role.OWNER)
    soon = (timezone.now() + timedelta(hours=1)).isoformat()

    given = login(scope="edit", workspace="default", expires_at=soon).json()

    token = ApiToken.objects.get()
    assert (given["scope"], given["workspace"]) == ("edit", "default")
    assert (token.scope, token.workspace.name) == ("edit", "default")
    assert token.expires_at == timezone.datetime.fromisoformat(soon)


def test_wrong_name_wrong_password_and_inactive_user_get_one_answer():
    user("maya", Role.OWNER)
    gone = user("gone", Role.OWNER)
    gone.is_active = False
    gone.save()

    answers = [
        login(username="nobody"),
        login(password="wrong"),
        login(username="gone"),
    ]

    assert [each.status_code for each in answers] == [401, 401, 401]
    assert len({each.content for each in answers}) == 1
    assert not ApiToken.objects.exists()


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        pytest.param({"scope": "root"}, 422, "scope", id="no such scope"),
        pytest.param({"scopes": "read"}, 422, "scopes", id="unknown field"),
        pytest.param({"expires_at": "2020-01-01T00:00:00Z"}, 422, "expires_at", id="past"),
        pytest.param({"name": ""}, 422, "name", id="no name"),
        pytest.param({"username": 7}, 422, "username", id="not a string"),
        pytest.param({"workspace": "elsewhere"}, 404, None, id="workspace of others"),
    ],
)
def test_bad_login_request_makes_no_token(changes, status, field):
    user("maya", Role.OWNER)

    response = login(**changes)

    fields = [each["field"] for each in response.json().get("errors", [])]
    assert (response.status_code, fields) == (status, [field] if field else [])
    assert not ApiToken.objects.exists()


def test_unknown_token_is_refused_even_beside_a_session():
    client = Client()
    client.force_login(user("maya", Role.OWNER))

    response = client.get(
        "/api/v1/workspaces/default", headers={"Authorization": "Bearer runyard_nonsense"}
    )

    assert (response.status_code, response["WWW-Authenticate"]) == (401, 'Bearer realm="runyard"')


def test_other_schemes_of_a_proxy_do_not_stand_in_the_way_of_a_session():
    client = Client()
    client.force_login(user("maya", Role.OWNER))

    response = client.get(
        "/api/v1/workspaces/default", headers={"Authorization": "Basic cHJveHk6cHJveHk="}
    )

    assert response.status_code == 200


# --- sessions -------------------------------------------------------------------------------


def test_session_reads_but_changes_nothing_without_the_csrf_token():
    client = Client(enforce_csrf_checks=True)
    client.force_login(user("maya", Role.OWNER))
    new = {"name": "mine", "capacity": 1, "production": True}

    def send(**headers):
        url = "/api/v1/workspaces/default/queues"
        return client.post(url, new, content_type="application/json", headers=headers)

    assert client.get("/api/v1/workspaces/default").status_code == 200
    refused = send()
    assert (refused.status_code, refused["Content-Type"]) == (403, PROBLEM)
    assert "CSRF" in refused.json()["detail"]
    client.cookies[settings.CSRF_COOKIE_NAME] = "a" * 32
    assert send(**{"X-CSRFToken": "b" * 32}).status_code == 403
    assert send(**{"X-CSRFToken": "a" * 32}).status_code == 201


def test_token_needs_no_csrf_token():
    caller = program()
    caller.client = Client(enforce_csrf_checks=True)

    made = caller.post("queues", {"name": "mine", "capacity": 1, "production": True})

    assert made.status_code == 201


# --- deny by default ------------------------------------------------------------------------


def test_method_without_a_declaration_cannot_be_written():
    with pytest.raises(TypeError, match=r"Forgotten\.post is no operation"):

        class Forgotten(Endpoint):
            def post(self, request):
                raise AssertionError


class Closed(Endpoint):
    """Its author forgot to say who may."""

    tag = "Tests"

    @operation("closed", "Closed", answers={200: None})
    def get(self, request, workspace):
        raise AssertionError("nobody may come here")


class Broken(Endpoint):
    tag = "Tests"

    @operation("broken", "Broken", permission=Permission.VIEW, answers={200: None})
    def get(self, request, workspace):
        raise ZeroDivisionError("password=hunter2")

    @operation("taken", "Taken", permission=Permission.VIEW, answers={200: None})
    def post(self, request, workspace):
        raise Conflict("someone was first", current=object())


class Echo(Endpoint):
    tag = "Tests"

    class Shape(Strict):
        text = Text(required=False)
        count = Whole(required=False, maximum=10)
        flag = Flag(required=False)
        share = Number(required=False, allow_null=True)

    @operation("echo", "Echo", permission=Permission.VIEW, body=Shape, answers={200: None})
    def post(self, request, workspace):
        return Response(self.body())


RAISED = {
    "gone": (Http404("secret"), 404, "there is nothing here"),
    "forbidden": (PermissionDenied("secret"), 403, "not allowed"),
    "large": (RequestDataTooBig("secret"), 413, "too large"),
    "odd": (SuspiciousOperation("secret"), 400, "cannot be read"),
    "database": (OperationalError("secret"), 503, "does not answer"),
    "other": (ApplicationError("says itself"), 400, "says itself"),
}


class Raising(Endpoint):
    tag = "Tests"

    @operation("raise", "Raise", permission=Permission.VIEW, answers={200: None})
    def get(self, request, workspace):
        raise RAISED[request.headers["X-Raised"]][0]


urlpatterns = [
    path("api/v1/workspaces/<str:workspace>/raising", Raising.as_view()),
    path("api/v1/workspaces/<str:workspace>/closed", Closed.as_view()),
    path("api/v1/workspaces/<str:workspace>/broken", Broken.as_view()),
    path("api/v1/workspaces/<str:workspace>/echo", Echo.as_view()),
    path("", include("config.urls")),
]


@pytest.fixture
def own_views(settings):
    settings.ROOT_URLCONF = __name__


def test_operation_that_does_not_say_who_may_is_closed_to_all(own_views):
    assert program().get("closed").status_code == 403


# --- problems -------------------------------------------------------------------------------


def test_what_breaks_is_a_problem_without_its_reason_which_stands_in_the_log(own_views, caplog):
    response = program().get("broken")

    assert (response.status_code, response["Content-Type"]) == (500, PROBLEM)
    assert response.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "something broke on the server; the reason stands in its log",
    }
    assert "ZeroDivisionError: password=hunter2" in caplog.text


def test_conflict_over_something_without_a_shape_tells_no_more_than_its_message(own_views):
    response = program().post("broken")

    assert response.status_code == 409
    assert response.json()["detail"] == "someone was first"
    assert "current" not in response.json()


@pytest.mark.parametrize("name", RAISED)
def test_whatever_is_raised_is_a_problem_that_gives_nothing_away(own_views, name):
    _, status, words = RAISED[name]

    response = program().get("raising", X_Raised=name)

    assert (response.status_code, response["Content-Type"]) == (status, PROBLEM)
    assert words in response.json()["detail"]
    assert "secret" not in response.content.decode()
    assert response.get("Retry-After") == ("5" if status == 503 else None)


def test_problem_names_every_wrong_field_at_once(own_views):
    sent = {"text": 1, "count": 11, "flag": "yes", "share": "much", "colour": "red"}

    response = program().post("echo", sent)

    assert response.status_code == 422
    assert response.json()["errors"] == [
        {"field": "text", "message": "not a valid string"},
        {"field": "count", "message": "ensure this value is less than or equal to 10"},
        {"field": "flag", "message": "must be a valid boolean"},
        {"field": "share", "message": "a valid number is required"},
        {"field": "colour", "message": "there is no such field here; take it out"},
    ]


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"count": True}, "count"),
        ({"count": 1.0}, "count"),
        ({"count": "1"}, "count"),
        ({"flag": 1}, "flag"),
        ({"share": True}, "share"),
        ({"text": True}, "text"),
        ({"text": None}, "text"),
        ([1], ""),
        ("text", ""),
    ],
)
def test_nothing_is_taken_for_another_type(own_views, sent, field):
    response = program().post("echo", sent)

    assert response.status_code == 422
    assert [each["field"] for each in response.json()["errors"]] == [field]


def test_text_comes_through_as_it_was_sent(own_views):
    sent = {"text": "  é\n\t ", "count": 3, "flag": False, "share": 2}

    assert program().post("echo", sent).json() == sent


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(b"{", "no JSON", id="cut off"),
        pytest.param(b'{"text": "a", "text": "b"}', "'text' stands there twice", id="twice"),
        pytest.param(b'{"share": NaN}', "no number", id="NaN"),
        pytest.param(b'{"share": 1e999}', "no number", id="too large"),
        pytest.param(b'{"text": "\\u0000"}', "NUL", id="NUL"),
        pytest.param(b'{"text": "\\ud800"}', "surrogate", id="half a pair"),
        pytest.param(b'{"text": "\xff"}', "UTF-8", id="not UTF-8"),
        pytest.param(b'{"\\u0000": 1}', "NUL", id="NUL in a name"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, "nested too deeply", id="deep"),
        pytest.param(b"1" * 5000, "no JSON", id="endless number"),
    ],
)
def test_ambiguous_json_is_refused(own_views, raw, words):
    caller = program()

    response = caller.client.post(
        "/api/v1/workspaces/default/echo",
        raw,
        content_type="application/json",
        headers=caller.headers,
    )

    assert response.status_code == 400
    assert words in response.json()["detail"]


def test_body_of_another_type_is_refused(own_views):
    response = program().send("POST", "echo", b"text=1")

    assert response.status_code == 415
    assert "send application/json" in response.json()["detail"]


def test_body_without_end_is_refused(own_views, monkeypatch):
    monkeypatch.setattr(endpoint, "BODY_BYTES", 100)

    assert program().post("echo", {"text": "x" * 90}).status_code == 413
    assert program().post("echo", {"text": "x" * 80}).status_code == 200


def test_no_body_counts_as_an_empty_one(own_views):
    assert program().post("echo").json() == {}


def test_answer_is_json_whatever_the_caller_would_rather_have():
    response = program().get("queues?limit=1", Accept="text/html")

    assert (response.status_code, response["Content-Type"]) == (200, "application/json")


def test_address_with_a_nul_character_leads_nowhere():
    assert program().get("queues/root%00queue").status_code == 404
    assert program().get("jobs?q=%00").status_code == 422


# --- pages of lists -------------------------------------------------------------------------


def test_list_goes_on_where_the_page_before_ended():
    caller = program()
    for number in range(3):
        body = {"name": f"q{number}", "capacity": 1, "production": True}
        assert caller.post("queues", body).status_code == 201

    names, before = [], ""
    while True:
        page = caller.get(f"queues?limit=2{before}").json()
        names.append([each["name"] for each in page["items"]])
        if page["next"] is None:
            break
        before = f"&before={page['next']}"

    assert names == [["q2", "q1"], ["q0", "root_queue"], ["dev_queue"]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("before=abc", "before"),
        ("before=0", "before"),
        ("before=99999999999999999999", "before"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=1&limit=2", "limit"),
        ("stat=failed", "stat"),
    ],
)
def test_query_that_cannot_be_meant_is_refused(query, field):
    response = program().get(f"queues?{query}")

    assert response.status_code == 422
    assert [each["field"] for each in response.json()["errors"]] == [field]


def test_reading_a_workspace_costs_three_questions():
    caller = program(Role.GUEST)
    with queries(caller, 3):  # the token with its user, the workspace, the role
        assert caller.get().status_code == 200


# --- its description ------------------------------------------------------------------------


def test_description_is_there_for_everyone_and_says_how_to_log_in():
    response = Client().get("/api/v1/schema/")

    found = response.json()
    assert response.status_code == 200
    assert found["openapi"] == "3.1.0"
    assert found["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    get_run = found["paths"]["/api/v1/workspaces/{workspace}/runs/{run}"]["get"]
    assert get_run["security"] == [{"token": []}, {"session": []}]
    assert (get_run["x-runyard-scope"], get_run["x-runyard-permission"]) == (
        "read",
        "workspace.view",
    )
    assert set(get_run["responses"]) == {"200", "401", "403", "404"}


def test_docs_are_a_page_for_everyone_with_every_operation_on_it():
    response = Client().get("/api/v1/docs/")

    html = response.content.decode()
    found = description()["paths"]
    names = [each["operationId"] for item in found.values() for each in item.values()]
    assert response.status_code == 200
    assert [name for name in names if f'id="{name}"' not in html] == []
    assert len(set(names)) == len(names)
    assert " style=" not in html
    assert "script-src 'self'" in response["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("send `null` or `{}`", "send <code>null</code> or <code>{}</code>"),
        ("`<b>` & <b>", "<code>&lt;b&gt;</code> &amp; &lt;b&gt;"),
        ("one ` alone", "one ` alone"),
        ("", ""),
    ],
)
def test_backticks_of_a_description_mark_code(text, html):
    page = Template("{% load marked %}{{ text|marked }}")

    assert page.render(Context({"text": text})) == html


def test_token_of_a_workspace_lists_that_one_and_makes_no_other():
    here = world()
    owner = user("owner", Role.OWNER)
    owner.is_superuser = True
    owner.save()
    factories.workspace("other")
    place = factories.workspace(here.workspace)
    token = create_token(owner, "bound", scope=TokenScope.ADMIN, workspace=place)
    bound = Program(token)

    names = [each["name"] for each in bound.get("/api/v1/workspaces").json()["items"]]
    made = bound.post("/api/v1/workspaces", {"name": "third"})

    assert (names, made.status_code) == (["default"], 403)


class _Inner(serializers.Serializer):
    number = serializers.IntegerField()


class _Outer(serializers.Serializer):
    text = serializers.CharField()
    at = serializers.DateTimeField(allow_null=True)
    far = serializers.IntegerField(source="inner.number", allow_null=True)
    near = _Inner(source="*")
    inner = _Inner(allow_null=True)
    several = _Inner(many=True)
    asked = serializers.CharField(source="method")
    made = serializers.SerializerMethodField()
    missing = serializers.CharField(default="none")
    skipped = serializers.CharField(required=False)
    secret = serializers.CharField(write_only=True)

    def get_made(self, row):
        return [row.number]


def test_rows_of_a_list_are_written_as_their_shape_writes_one():
    at = datetime(2025, 11, 20, 9, tzinfo=UTC)
    inner = SimpleNamespace(number="7")
    same = {"number": 3, "several": [inner, inner], "method": lambda: "asked", "secret": "x"}
    rows = [
        SimpleNamespace(text=5, at=at, inner=inner, skipped="not", missing="there", **same),
        SimpleNamespace(text="", at=None, inner=None, **same),
    ]

    found = written(_Outer, rows)

    assert found == [dict(_Outer(row).data) for row in rows]
    assert [each["far"] for each in found] == [7, None]
    assert [each["missing"] for each in found] == ["there", "none"]
    assert ["skipped" in each for each in found] == [True, False]


def test_row_without_what_its_shape_asks_for_is_an_error():
    with pytest.raises(AttributeError, match="field `number` on serializer `_Inner`"):
        written(_Inner, [SimpleNamespace()])
