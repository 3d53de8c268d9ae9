"""REST: workspaces and resource queues."""

from __future__ import annotations

import pytest

from apps.engine.roles import Role
from apps.workspaces.models import Member, ResourceQueue, User, Workspace
from apps.workspaces.services import create_workspace
from tests import factories
from tests.api import job, program, queries, user

pytestmark = pytest.mark.django_db

NEW = {"name": "nightly", "capacity": 2.5, "production": True}


def test_administrator_creates_a_workspace_with_its_two_queues():
    caller = program(None)
    User.objects.update(is_superuser=True)

    made = caller.post("/api/v1/workspaces", {"name": "sales", "zone": "Asia/Tokyo"})

    assert made.status_code == 201
    assert (made.json()["name"], made.json()["zone"]) == ("sales", "Asia/Tokyo")
    names = Workspace.objects.get(name="sales").queues.values_list("name", flat=True)
    assert list(names) == ["dev_queue", "root_queue"]


@pytest.mark.parametrize(
    ("body", "status", "fields"),
    [
        ({"name": "with space"}, 422, ["name"]),
        ({"name": "a", "zone": "Mars/Olympus"}, 422, ["zone"]),
        ({"name": "a", "zone": "UTC", "owner": "me"}, 422, ["owner"]),
        ({}, 422, ["name"]),
        ({"name": "default"}, 409, None),
    ],
)
def test_workspace_that_cannot_be(body, status, fields):
    factories.workspace()
    caller = program(None)
    User.objects.update(is_superuser=True)

    response = caller.post("/api/v1/workspaces", body)

    errors = response.json().get("errors")
    assert response.status_code == status
    assert (errors and [each["field"] for each in errors]) == fields


def test_owner_of_one_workspace_creates_no_other():
    assert program(Role.OWNER).post("/api/v1/workspaces", {"name": "mine"}).status_code == 403


@pytest.mark.parametrize("count", [1, 3])
def test_workspaces_are_listed_for_their_members(count):
    caller, me = program(Role.GUEST), user("guest")
    for number in range(count - 1):
        Member.objects.create(workspace=create_workspace(f"w{number}"), user=me, role=Role.GUEST)
    create_workspace("of_others")

    with queries(caller, 2):
        found = caller.get("/api/v1/workspaces").json()

    names = ["default", "w0", "w1"][:count]
    assert [each["name"] for each in found["items"]] == names[::-1]
    assert found["next"] is None


@pytest.mark.parametrize("count", [1, 3])
def test_queues_are_listed_with_what_is_in_use(count):
    place = factories.workspace()
    place.queues.all().delete()
    for number in range(count):
        place.queues.create(name=f"q{number}", capacity=1500, used=250, production=True)
    caller = program(Role.GUEST)

    # token, workspace, role; the queues; engine, lines, who holds them
    with queries(caller, 7):
        found = caller.get("queues").json()["items"]

    shown = [(each["name"], each["capacity"], each["used"]) for each in found]
    assert shown == [(f"q{number}", 1.5, 0.25) for number in reversed(range(count))]


def test_queue_lives_from_creation_to_deletion():
    caller = program()

    made = caller.post("queues", NEW)
    edited = caller.patch("queues/nightly", {"capacity": 0.25, "spark_master": "yarn"})
    gone = caller.delete("queues/nightly")

    expected = {
        "id": made.json()["id"],
        "name": "nightly",
        "description": "",
        "capacity": 2.5,
        "used": 0.0,
        "held": False,
        "development": False,
        "production": True,
        "spark_master": "local",
        "waiting": None,
    }
    assert (made.status_code, made.json()) == (201, expected)
    changed = {**expected, "capacity": 0.25, "spark_master": "yarn"}
    assert (edited.status_code, edited.json()) == (200, changed)
    assert (gone.status_code, gone.content) == (204, b"")
    assert caller.get("queues/nightly").status_code == 404


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({**NEW, "capacity": 0}, ["capacity"]),
        ({**NEW, "capacity": "2"}, ["capacity"]),
        ({**NEW, "production": False}, ["production"]),
        ({**NEW, "name": "a b"}, ["name"]),
        ({**NEW, "used": 0}, ["used"]),
    ],
)
def test_queue_that_cannot_be(body, fields):
    response = program().post("queues", body)

    assert response.status_code == 422
    assert [each["field"] for each in response.json()["errors"]] == fields


@pytest.mark.parametrize(
    "master",
    [
        "local",
        "yarn",
        "spark://one:7077",
        "spark://10.0.0.1:7077,two.example.org:7077",
        "k8s://https://kubernetes.default.svc:443",
        "k8s://10.0.0.1:6443",
        "k8s://https://cloud.example.org/clusters/1",
    ],
)
def test_queue_takes_a_spark_master(master):
    made = program().post("queues", {**NEW, "spark_master": master})

    assert (made.status_code, made.json().get("spark_master")) == (201, master)


@pytest.mark.parametrize(
    ("master", "message"),
    [
        *(
            (
                master,
                f"'{master}' is no Spark master; write local, spark://host:port, yarn or "
                "k8s://https://host:port",
            )
            for master in ("foo", "spark://host", "spark://", "yarn x", "k8s://", "YARN")
        ),
        *(
            (
                master,
                f"'{master}': write local; how many tasks run at once each job says, by driver "
                "cores",
            )
            for master in ("local[4]", "local[*]", "local ")
        ),
    ],
)
def test_queue_refuses_what_is_no_spark_master(master, message):
    caller = program()

    made = caller.post("queues", {**NEW, "spark_master": master})
    edited = caller.patch("queues/root_queue", {"spark_master": master})

    for response in (made, edited):
        assert response.status_code == 422
        assert response.json()["errors"] == [{"field": "spark_master", "message": message}]
    assert ResourceQueue.objects.get(name="root_queue").spark_master == "local"


def test_edit_with_an_unknown_field_changes_nothing():
    response = program().patch("queues/root_queue", {"capacity": 1, "name": "other"})

    root = ResourceQueue.objects.get(name="root_queue")
    assert response.status_code == 422
    assert [each["field"] for each in response.json()["errors"]] == ["name"]
    assert root.capacity > 1000


def test_queue_that_something_needs_stays():
    caller = program()
    caller.post("queues", NEW)
    factories.workspace()
    used = job(factories.workspace(), "uses_it")
    used.queue = factories.workspace().queues.get(name="nightly")
    used.save()

    kept = [caller.delete(f"queues/{name}") for name in ("root_queue", "nightly")]
    taken = caller.post("queues", NEW)

    assert [each.status_code for each in kept] == [409, 409]
    assert "uses_it" in kept[1].json()["detail"]
    assert taken.status_code == 409
