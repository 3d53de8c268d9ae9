"""Pages of workspaces and queues, logging in and out."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from apps.engine.roles import Role
from apps.runs.models import Worker
from apps.runs.services.workers import show_life
from apps.workspaces.models import ResourceQueue, User, Workspace
from apps.workspaces.services import create_queue
from tests.factories import by_hand, published, workspace
from tests.html import errors, requests, rows
from tests.people import client_of, member, user

pytestmark = pytest.mark.django_db

QUEUES = "/w/default/queues/"


def queue(**changes):
    return {
        "name": "etl",
        "description": "",
        "capacity": "2.5",
        "environments": ["production"],
        "spark_master": "local",
        **changes,
    }


@pytest.mark.parametrize("many", [1, 3])
def test_workspaces_of_a_member_alone(django_assert_num_queries, many):
    client = member()
    workspace("not_mine")
    for n in range(1, many):
        workspace(f"more{n}").members.create(user=User.objects.get(), role=Role.GUEST)
    by_hand(published("a"))

    with django_assert_num_queries(3):
        html = client.get("/workspaces/").content.decode()

    more = [[f"more{n}", "0", "0", "0", "UTC"] for n in range(1, many)]
    assert rows(html) == [["default", "1", "1", "1", "UTC"], *more]


def test_home_leads_into_the_only_workspace():
    client = member()

    assert client.get("/").headers["Location"] == "/w/default/workflows/"
    workspace("second").members.create(user=User.objects.get(), role=Role.GUEST)
    assert client.get("/").headers["Location"] == "/workspaces/"


def test_an_administrator_creates_a_workspace_and_nobody_else_does():
    root = User.objects.create_superuser("root")
    sent = {"name": "data-platform", "zone": "Asia/Shanghai"}

    assert member().post("/workspaces/create/", sent).status_code == 403
    answer = client_of(root).post("/workspaces/create/", sent)

    assert answer.headers["Location"] == "/w/data-platform/workflows/"
    made = Workspace.objects.get(name="data-platform")
    assert (made.zone, made.queues.count()) == ("Asia/Shanghai", 2)


def test_a_workspace_with_an_odd_or_taken_name_keeps_what_was_typed():
    client = client_of(User.objects.create_superuser("root"))
    workspace()

    odd = client.post("/workspaces/create/", {"name": "a b", "zone": "UTC"})
    taken = client.post("/workspaces/create/", {"name": "default", "zone": "UTC"})

    assert (odd.status_code, taken.status_code) == (422, 422)
    assert errors(taken.content.decode()) == [
        "There is a workspace &#x27;default&#x27; already; choose another name"
    ]
    assert 'value="a b"' in odd.content.decode()


@pytest.mark.parametrize("many", [2, 4])
def test_queues_with_what_runs_and_waits_in_them(django_assert_num_queries, many):
    client = member()
    for n in range(many - 2):
        create_queue(workspace(), f"q{n}", capacity=2000, development=True, production=True)
    by_hand(published("a", "b"))

    # session, user, member; queues, what is in them, workers, holds
    with django_assert_num_queries(7):
        html = client.get(QUEUES).content.decode()

    listed = {row[0]: row for row in rows(html)}
    assert len(listed) == many
    assert listed["root_queue"][1] == "production"
    assert listed["root_queue"][4:6] == ["0", "(Waiting) 2"]
    assert requests(html) == [QUEUES]


def test_a_queue_is_created_with_its_capacity_in_thousandths():
    answer = member().post(f"{QUEUES}create/", queue())

    assert answer.headers["Location"] == QUEUES
    made = ResourceQueue.objects.get(name="etl")
    assert (made.capacity, made.production, made.development) == (2500, True, False)


def test_every_fault_of_a_queue_at_its_field_and_nothing_lost():
    answer = member().post(f"{QUEUES}create/", queue(name="a b", environments=[], capacity="0.1"))

    html = answer.content.decode()
    assert answer.status_code == 422
    assert errors(html) == [
        "Ensure this value is greater than or equal to 0.25.",
        "This field is required.",
    ]
    assert 'value="a b"' in html


def test_a_queue_keeps_its_name_when_it_is_edited():
    root = workspace().queues.get(name="root_queue")

    member().post(f"{QUEUES}{root.pk}/", queue(name="other", capacity="7"))

    root.refresh_from_db()
    assert (root.name, root.capacity) == ("root_queue", 7000)


def test_the_root_queue_cannot_be_deleted():
    root = workspace().queues.get(name="root_queue")

    answer = member().post(f"{QUEUES}{root.pk}/delete/")

    assert answer.status_code == 409
    html = answer.content.decode()
    assert "cannot be deleted" in html
    assert 'href="/w/default/queues/"' in html  # the navigation is still there
    assert ResourceQueue.objects.filter(pk=root.pk).exists()


def test_htmx_hears_an_error_as_a_word_and_nothing_is_swapped():
    root = workspace().queues.get(name="root_queue")

    answer = member().post(f"{QUEUES}{root.pk}/delete/", headers={"HX-Request": "true"})

    assert (answer.status_code, answer.content) == (409, b"")
    assert answer.headers["X-Error"].startswith("%27root_queue%27%20cannot%20be%20deleted")


def test_logging_in_needs_the_password_and_logging_out_clears_the_browser():
    person = user("li.wei")
    person.set_password("correct horse battery")
    person.save()
    client = Client()

    wrong = client.post("/login/", {"username": "li.wei", "password": "wrong"})
    right = client.post("/login/", {"username": "li.wei", "password": "correct horse battery"})
    assert (wrong.status_code, right.headers["Location"]) == (200, "/")
    assert 'role="alert"' in wrong.content.decode()

    assert client.get("/logout/").status_code == 405
    out = client.post("/logout/")
    assert out.headers["Clear-Site-Data"] == '"cache", "cookies"'
    assert client.get("/w/default/runs/").headers["Location"].startswith("/login/")


@pytest.mark.parametrize("path", ["/w/default/runs/?state=open", "/workspaces/switcher/?here=x"])
def test_a_part_of_a_page_without_a_session_sends_the_whole_page_to_login(path):
    workspace()

    answer = Client().get(
        path,
        headers={
            "HX-Request": "true",
            "HX-Current-URL": "http://testserver/w/default/runs/7/?node=a",
        },
    )

    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["HX-Redirect"] == "/login/?next=%2Fw%2Fdefault%2Fruns%2F7%2F%3Fnode%3Da"


def test_where_login_leads_stays_on_this_site():
    person = user("li.wei")
    person.set_password("correct horse battery")
    person.save()

    answer = Client().post(
        "/login/?next=https://evil.example/",
        {"username": "li.wei", "password": "correct horse battery"},
    )

    assert answer.headers["Location"] == "/"


def test_queues_say_which_workers_there_are_and_whom_jobs_run_as():
    client = member()
    assert "No worker is alive" in client.get(QUEUES).content.decode()
    show_life("w1", host="etl-1", slots=4, why_trusted="the worker does not run as root")
    show_life("w2", host="etl-2", slots=8, why_trusted="")
    Worker.objects.create(name="gone", host="etl-3", slots=1)
    Worker.objects.filter(name="gone").update(seen_at=timezone.now() - timedelta(minutes=5))

    html = client.get(QUEUES).content.decode()

    assert "2 workers with 4 + 8 slots." in html
    assert html.count("Jobs are trusted on") == 1
    assert "Jobs are trusted on etl-1:</strong> the worker does not run as root." in html
