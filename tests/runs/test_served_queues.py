"""A resource queue is served by the workers that name it."""

from __future__ import annotations

import pytest
from celery import current_app

from apps.engine.serving import EVERY_BELL, bell_of
from apps.runs import doorbell
from apps.runs.models import Run, Worker
from apps.runs.services.workers import show_life
from apps.workspaces.services import create_queue
from tests.factories import by_hand, published, workspace
from tests.people import member
from tests.waiting import until
from tests.workers import ended


def queue(name: str):
    found = workspace().queues.filter(name=name).first()
    return found or create_queue(
        workspace(), name, capacity=4000, development=False, production=True
    )


def lives(name: str, queues: str = "") -> None:
    show_life(name, host="here", slots=1, queues=queues, why_trusted="")


def workers_of(run: Run) -> set[str]:
    return {node.worker for node in run.nodes.all()}


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(120)
def test_nodes_run_where_their_queue_is_served_and_an_unknown_name_is_a_warning(start):
    spark, rest = queue("spark"), queue("root_queue")
    first = start("spark", worker_queues="default/spark,default/later")
    second = start("rest", worker_queues="default/root*")
    until(lambda: Worker.objects.count() == 2, "both workers' rows")

    runs = [
        by_hand(published("a", "b", name=each.name, queue=each), queue=each)
        for each in (spark, rest)
    ]
    later = queue("later")
    runs.append(by_hand(published("a", name="later", queue=later), queue=later))
    until(lambda: all(ended(run) for run in runs), "the end of all runs", seconds=60)

    assert [workers_of(run) for run in runs] == [{first.name}, {second.name}, {first.name}]
    assert "no resource queue is called 'default/later' yet" in first.said()
    assert "no resource queue is called" not in second.said()


@pytest.mark.django_db
def test_bell_rings_where_those_listen_that_serve_the_queue(servers, monkeypatch):
    monkeypatch.setattr(doorbell, "_bells_of", doorbell._Known().bells_of)
    connection = current_app.connection()
    broker = connection.default_channel.client
    named = bell_of(("default/spark",))
    lives("one", "default/spark")
    lives("two", "default/other")
    broker.delete(EVERY_BELL, named)

    doorbell.ring({queue("spark").pk: 3, queue("root_queue").pk: 2})

    assert (broker.llen(named), broker.llen(EVERY_BELL)) == (3, 0)
    broker.delete(named)
    connection.release()


@pytest.mark.django_db
def test_page_names_no_worker_of_another_workspace_where_there_is_no_other():
    lives("atlantis-1", "atlantis/*")

    page = member().get("/w/default/queues/").content.decode()

    assert "No worker is alive that serves this workspace: nothing starts until one does." in page
    assert page.count("no living worker serves it") == 2
    assert "atlantis" not in page


@pytest.mark.django_db
def test_page_says_who_serves_a_queue_and_in_red_where_nobody_does():
    queue("spark")
    lives("w1", "default/spark,default/sp*")
    lives("w2", "default/spark,default/dev_queue")

    page = member().get("/w/default/queues/").content.decode()

    assert page.count("no living worker serves it") == 1
    assert 'title="w1, w2">2<' in page
    assert 'title="w2">1<' in page
    assert "Worker w1 serves only spark." in page
    lives("w3", "default/gone")
    lives("atlantis-1", "atlantis/*")
    page = member().get("/w/default/queues/").content.decode()
    assert "Worker w3 serves none of these." in page
    assert "1 more worker serves other workspaces only." in page
    assert "atlantis" not in page
    lives("w4")
    page = member().get("/w/default/queues/").content.decode()
    assert "no living worker serves it" not in page
