"""What is open ends when the right to it does; and what was sent is not kept by caches."""

from __future__ import annotations

import threading
import time

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.sessions.models import Session
from django.db import connection, transaction
from django.test import AsyncClient

from apps.core.errors import Conflict
from apps.runs.models import Run
from apps.workspaces.models import Member, User
from apps.workspaces.services import create_queue, delete_queue
from tests.api import debug_run, job, world
from tests.factories import by_hand, published, workspace
from tests.people import member, user


def log_out() -> None:
    Session.objects.all().delete()


def be_switched_off() -> None:
    User.objects.filter(username="li.wei").update(is_active=False)


def leave() -> None:
    Member.objects.all().delete()


def get_a_new_password() -> None:
    person = User.objects.get(username="li.wei")
    person.set_password("another horse battery")
    person.save()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("go", [log_out, be_switched_off, leave, get_a_new_password])
def test_a_stream_ends_with_the_right_to_it(go, busy, monkeypatch):
    from apps.runs import log_text, views

    run = by_hand(published("a"))
    node = run.nodes.get()
    node.attempts.create(number=1, worker="w")
    if busy:  # as of a job that prints without a pause

        def never_silent(log, offset, *, ended):
            time.sleep(0.05)
            return log_text.LogText(start=offset, text="x", next=offset + 1)

        monkeypatch.setattr(views, "text_from", never_silent)

    async def follow() -> list[bytes]:
        client = AsyncClient()
        await client.aforce_login(await sync_to_async(user)())
        url = f"/w/default/runs/{run.pk}/nodes/{node.pk}/stream/?attempt=1"
        answer = await client.get(url)
        parts = aiter(answer.streaming_content)
        got = [await anext(parts)]
        await sync_to_async(go)()
        return got + [part async for part in parts]

    began = time.monotonic()
    got = async_to_sync(follow)()

    assert time.monotonic() - began < 10  # and not ten minutes
    assert b"event: end" not in b"".join(got)


@pytest.mark.django_db
@pytest.mark.parametrize("route", ["log", "raw", "stream"])
def test_an_attempt_of_many_digits_is_one_that_there_is_not(route):
    made = world()
    node = Run.objects.get(pk=made.run).nodes.get(key=made.node)

    answer = member().get(
        f"/w/default/runs/{made.run}/nodes/{node.pk}/{route}/?attempt={'9' * 5000}"
    )

    assert answer.status_code == 404


@pytest.mark.django_db
def test_pages_are_kept_by_nobody_and_outputs_are_asked_for_again():
    made = world()
    client = member()
    output = f"/w/default/runs/{made.run}/outputs/{made.output}/"

    for path in ("/w/default/workflows/", f"/w/default/runs/{made.run}/", "/w/default/none/"):
        assert client.get(path)["Cache-Control"] == "private, no-store", path
    first = client.get(output)
    again = client.get(output, headers={"If-None-Match": first["ETag"]})

    assert (first.status_code, first["Cache-Control"]) == (200, "private, no-cache")
    assert (again.status_code, again.content) == (304, b"")
    assert again["Cache-Control"] == "private, no-cache"


@pytest.mark.django_db(transaction=True)
def test_a_queue_on_which_a_run_starts_is_not_deleted_under_it():
    queue = create_queue(workspace(), "q", capacity=9000, development=True, production=True)
    version = published("a", queue=queue)
    version.workflow.nodes.all().delete()
    type(version.workflow).objects.update(queue=None)
    ended: list[str] = []

    def delete() -> None:
        try:
            delete_queue(queue)
            ended.append("deleted")
        except Conflict as error:
            ended.append(str(error))
        finally:
            connection.close()

    with transaction.atomic():
        by_hand(version)
        other = threading.Thread(target=delete)
        other.start()
        other.join(1)
        assert ended == []  # it waits for the run to be there
    other.join()

    assert ended == ["queue 'q' is in use by past runs; move what uses it first"]
    assert Run.objects.get().nodes.get().queue.name == "q"


@pytest.mark.django_db(transaction=True)
def test_a_run_does_not_start_on_a_queue_that_is_being_deleted():
    workspace()
    alone = job(workspace(), "alone")
    queue = workspace().queues.get(name="dev_queue")
    ended: list[str] = []

    def start() -> None:
        try:
            debug_run(alone)
            ended.append("started")
        except Conflict as error:
            ended.append(str(error))
        finally:
            connection.close()

    with transaction.atomic():
        delete_queue(queue)
        other = threading.Thread(target=start)
        other.start()
        other.join(1)
        assert ended == []
    other.join()

    assert ended == ["queue 'dev_queue' was deleted meanwhile; choose another"]
    assert not Run.objects.exists()
