"""Holds: nothing new starts, what runs goes on, and no run slips through."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest
from django.db import connection, transaction

from apps.core.errors import Conflict, Invalid, NotFound
from apps.engine.states import Missed, NodeState, RunState
from apps.runs.models import NodeRun, Run, RunEvent
from apps.runs.services import sweep
from apps.runs.services.holding import hold, release, settle, tag_workflow
from apps.runs.services.hot_path import Claim, Outcome, claim, finish, queues_with_work
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import rerun_failed
from apps.runs.services.stop import stop_run
from apps.runs.services.success import set_success
from apps.workflows.models import Workflow
from apps.workflows.services.drafting import delete_workflow
from apps.workspaces.models import ResourceQueue, WorkspaceHold
from apps.workspaces.services import create_queue
from tests.factories import by_hand, chain, published, workspace
from tests.people import user as person
from tests.waiting import until

SUCCEEDED = Outcome(NodeState.SUCCEEDED, exit_code=0)
FAILED = Outcome(NodeState.FAILED, exit_code=1)
ME = "worker@here:1"


def queue(name: str = "root_queue") -> ResourceQueue:
    return workspace().queues.get(name=name)


def take() -> Claim | None:
    return claim(queue().pk, ME, uuid4())


def end(mine: Claim, outcome: Outcome = SUCCEEDED):
    return finish(mine, outcome, worker=ME, request=uuid4(), take=True)


def states(run: Run) -> str:
    return " ".join(run.nodes.order_by("pk").values_list("state", flat=True))


def notes(run: Run) -> list[str]:
    rows = RunEvent.objects.filter(run=run, node_run=None).exclude(note="").order_by("id")
    return list(rows.values_list("note", flat=True))


def tagged(*nodes: str, tags: dict[str, str], name: str = "flow", **kwargs: object):
    version = published(*nodes, name=name, **kwargs)
    tag_workflow(version.workflow, tags, user=None)
    return version


@pytest.mark.django_db
@pytest.mark.parametrize("whole", [False, True])
def test_held_queue_hands_nothing_on_takes_its_capacity_back_and_goes_on_when_released(whole):
    run = by_hand(published("a", "b", "c"))
    mine = take()

    held = hold(workspace(), queue=None if whole else queue(), user=None)

    assert (take(), queues_with_work(8)) == (None, {})
    assert end(mine).next is None
    assert queue().used == 0
    assert states(run) == "succeeded queued queued"
    release(held, user=None)
    assert queues_with_work(8) == {queue().pk: 2}
    assert take().key == "b"


@pytest.mark.django_db
def test_other_queues_go_on_under_a_hold_on_one():
    held = hold(workspace(), queue=queue("dev_queue"), user=None)

    by_hand(published("a"))

    assert take().key == "a"
    assert [(q.name, q.held) for q in workspace().queues.all()] == [
        ("dev_queue", True),
        ("root_queue", False),
    ]
    release(held, user=None)
    assert queue("dev_queue").held is False


@pytest.mark.django_db
def test_queue_stays_held_while_any_hold_stands_on_it_and_a_new_one_is_held_with_its_workspace():
    one = hold(workspace(), queue=queue(), user=None)
    whole = hold(workspace(), reason="disk full", user=None)
    new = create_queue(workspace(), "new", capacity=1000, development=False, production=True)

    release(whole, user=None)

    held = dict(workspace().queues.values_list("name", "held"))
    assert (new.held, held) == (True, {"dev_queue": False, "new": False, "root_queue": True})
    release(one, user=None)
    assert queue().held is False


@pytest.mark.django_db
def test_the_same_is_held_once_and_released_once():
    maya = person("maya")
    held = hold(workspace(), queue=queue(), reason=" disk full ", user=maya)
    with pytest.raises(Conflict, match="queue root_queue is held already"):
        hold(workspace(), queue=queue(), user=None)

    release(held, missed=Missed.ALL, user=maya)

    with pytest.raises(Conflict, match="has been released already"):
        release(held, user=None)
    held.refresh_from_db()
    assert (held.reason, held.missed) == ("disk full", "all")
    assert (held.created_by, held.released_by) == (maya, maya)
    assert hold(workspace(), queue=queue(), user=None).pk != held.pk


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("tag", "holds"),
    [
        pytest.param("team=finance", True, id="key and value"),
        pytest.param("team", True, id="key"),
        pytest.param("team=sales", False, id="another value"),
        pytest.param("tier", False, id="another key"),
    ],
)
def test_hold_on_a_tag_takes_the_runs_that_have_it(tag, holds):
    version = tagged("a", tags={"team": "finance", "zone": "eu"})
    before = by_hand(version)
    untagged = by_hand(published("x", name="other"))

    made = hold(workspace(), tag=tag, reason="audit", user=person("maya"))
    after = by_hand(version)

    where = "pending" if holds else "queued"
    assert [states(run) for run in (before, after, untagged)] == [where, where, "queued"]
    told = f"held: tag {tag} (audit)"
    assert notes(before) == ["started: manual"] + [told] * holds
    assert notes(after) == ["started: manual"] + [told] * holds
    release(made, user=None)
    assert [states(run) for run in (before, after)] == ["queued", "queued"]
    assert notes(before)[2:] == ["no longer held"] * holds


@pytest.mark.django_db
def test_what_runs_under_a_held_tag_goes_on_and_what_follows_waits():
    version = chain(3)
    tag_workflow(version.workflow, {"team": "finance"}, user=None)
    run = by_hand(version)
    mine = take()

    made = hold(workspace(), tag="team", user=None)

    assert end(mine).next is None
    assert states(run) == "succeeded pending pending"
    run.refresh_from_db()
    assert (run.state, run.active, run.open) == (RunState.RUNNING, 0, 1)
    release(made, user=None)
    assert take().key == "n001"


@pytest.mark.django_db
def test_a_persons_pause_and_a_hold_are_apart():
    run = by_hand(tagged("a", tags={"team": "finance"}))
    made = hold(workspace(), tag="team", user=None)
    pause_run(run, user=None)

    release(made, user=None)
    assert states(run) == "pending"
    made = hold(workspace(), tag="team", user=None)
    resume_run(run, user=None)
    assert states(run) == "pending"
    release(made, user=None)

    assert states(run) == "queued"


@pytest.mark.django_db
def test_two_holds_on_one_run_are_both_to_be_released():
    run = by_hand(tagged("a", tags={"team": "finance", "tier": "gold"}))
    team, tier = (hold(workspace(), tag=tag, user=None) for tag in ("team", "tier=gold"))

    release(team, user=None)
    assert states(run) == "pending"
    release(tier, user=None)

    assert states(run) == "queued"


@pytest.mark.django_db
def test_tags_count_at_once_for_runs_that_are_open():
    version = published("a")
    run = by_hand(version)
    hold(workspace(), tag="team", user=None)

    tag_workflow(version.workflow, {"team": "x"}, user=None)
    assert states(run) == "pending"
    tag_workflow(version.workflow, {}, user=None)

    assert states(run) == "queued"
    version.workflow.refresh_from_db()
    assert (version.workflow.tags, version.workflow.revision) == ({}, version.workflow.revision)
    stop_run(run, user=None)
    delete_workflow(version.workflow)
    with pytest.raises(NotFound, match="was deleted"):
        tag_workflow(version.workflow, {"team": "x"}, user=None)


@pytest.mark.django_db
def test_held_run_can_be_stopped_and_what_is_over_is_left_alone():
    run = by_hand(tagged("a", tags={"team": "x"}))
    made = hold(workspace(), tag="team", user=None)

    stop_run(run, user=None)
    release(made, user=None)

    run.refresh_from_db()
    assert (run.state, states(run), settle(run.pk)) == (RunState.STOPPED, "stopped", False)


@pytest.mark.django_db
def test_rerun_and_set_success_of_what_was_over_are_held():
    again = by_hand(tagged("a", tags={"team": "x"}))
    end(take(), FAILED)
    ahead = by_hand(tagged("up", "down", edges=[("up", "down")], tags={"team": "x"}, name="two"))
    end(take(), FAILED)
    made = hold(workspace(), tag="team", user=None)

    rerun_failed(again, user=None)
    set_success(ahead.nodes.get(key="up"), reason="by hand", user=None)

    assert (states(again), states(ahead)) == ("pending", "succeeded pending")
    release(made, user=None)
    assert (states(again), states(ahead)) == ("queued", "succeeded queued")


@pytest.mark.django_db
def test_sweep_settles_what_a_crash_left_between_a_hold_and_its_runs():
    run = by_hand(tagged("a", tags={"team": "x"}))
    job_run = Run.objects.filter(workflow=None).count()
    made = WorkspaceHold.objects.create(workspace=workspace(), tag_key="team")

    sweep.tick()
    assert (states(run), job_run) == ("pending", 0)
    revision = Run.objects.get(pk=run.pk).revision
    sweep.tick()
    assert Run.objects.get(pk=run.pk).revision == revision
    WorkspaceHold.objects.filter(pk=made.pk).delete()
    sweep.tick()

    assert states(run) == "queued"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("tags", "said"),
    [
        pytest.param({"team": ""}, "tag 'team': it has no value; write key=value", id="no value"),
        pytest.param({"": "x"}, "tag '': it has no key; write key=value", id="no key"),
        pytest.param({"a b": "x"}, "tag 'a b': the key 'a b' is not allowed; use 1 to", id="space"),
        pytest.param({"a": "é"}, "tag 'a': the value 'é' is not allowed; use 1 to", id="accent"),
        pytest.param({"a" * 65: "x"}, "is not allowed; use 1 to 64 letters", id="long"),
        pytest.param({f"k{n}": "x" for n in range(51)}, "there are 51 tags; 50 are", id="many"),
    ],
)
def test_tag_that_cannot_be_one_is_refused_by_name(tags, said):
    flow = published("a").workflow

    with pytest.raises(Invalid) as refused:
        tag_workflow(flow, tags, user=None)

    assert said in str(refused.value)
    assert Workflow.objects.get(pk=flow.pk).tags == {}


@pytest.mark.django_db
@pytest.mark.parametrize("tag", ["=x", "team=", "a b", "team=a=b"])
def test_hold_on_what_can_be_no_tag_is_refused(tag):
    with pytest.raises(Invalid, match="tag"):
        hold(workspace(), tag=tag, user=None)

    assert WorkspaceHold.objects.count() == 0


# --- races: real transactions ---------------------------------------------------------------


def aside(work) -> threading.Thread:
    def run() -> None:
        work()
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def someone_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
def test_run_launched_while_its_tag_is_being_held_does_not_slip_through(monkeypatch):
    """The launch has read the holds, and has not committed, when the hold comes."""
    version = tagged("a", tags={"team": "x"})
    found: list[Run] = []
    with transaction.atomic():
        found.append(by_hand(version))  # queued: there is no hold yet
        holding = aside(lambda: hold(workspace(), tag="team", user=None))
        until(someone_waits_for_a_lock, "the hold's wait for the launch")
        assert states(found[0]) == "queued"
    holding.join()

    assert states(found[0]) == "pending"
    assert Run.objects.get(pk=found[0].pk).held is True


@pytest.mark.django_db(transaction=True)
def test_rerun_while_its_tag_is_being_held_does_not_slip_through():
    run = by_hand(tagged("a", tags={"team": "x"}))
    end(take(), FAILED)
    with transaction.atomic():
        rerun_failed(run, user=None)
        holding = aside(lambda: hold(workspace(), tag="team", user=None))
        until(someone_waits_for_a_lock, "the hold's wait for the rerun")
    holding.join()

    assert states(run) == "pending"


@pytest.mark.django_db(transaction=True)
def test_hold_on_a_queue_waits_for_a_finish_that_is_handing_capacity_on():
    """After it nothing starts, not even what was being started."""
    by_hand(published("a", "b", "c"))
    mine = take()
    with transaction.atomic():
        following = end(mine).next  # has read the flag, and not committed
        holding = aside(lambda: hold(workspace(), queue=queue(), user=None))
        until(someone_waits_for_a_lock, "the hold's wait for the finish")
        assert holding.is_alive()
    holding.join()

    assert following.key == "b"
    assert queue().held is True
    assert take() is None
    assert end(following).next is None
    assert NodeRun.objects.filter(state=NodeState.QUEUED).count() == 1


@pytest.mark.django_db(transaction=True)
def test_claim_that_read_the_flag_before_the_hold_is_refused_the_capacity():
    by_hand(published("a"))
    found: list[Claim | None] = []
    with transaction.atomic():
        # The hold's own statement, and no commit yet: a plain read sees the queue open.
        ResourceQueue.objects.filter(pk=queue().pk).update(held=True)
        claiming = aside(lambda: found.append(take()))
        until(someone_waits_for_a_lock, "the claim's wait for the queue's row")
    claiming.join()

    assert found == [None]
