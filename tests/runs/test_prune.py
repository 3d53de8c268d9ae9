"""Retention: what is over for long goes, with all that belongs to it, and nothing else does."""

from __future__ import annotations

import os
import threading
from datetime import datetime, timedelta
from io import BytesIO, StringIO

import pytest
from django.conf import settings
from django.core.files.storage import default_storage
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from apps.engine.states import Trigger
from apps.nodes.services.files import blob_name, delete_file, put_file, store
from apps.nodes.services.jobs import create_job, publish_job
from apps.runs.models import Attempt, NodeRun, Output, Run, RunEvent
from apps.runs.services import prune as module
from apps.runs.services.launch import launch
from apps.runs.services.prune import Forgotten, collect_bytes, doomed, prune
from tests.factories import by_hand, chain, workspace
from tests.waiting import until

pytestmark = pytest.mark.django_db


def over(run: Run, days: float) -> Run:
    """A run with a log and an output for each node, over for so many days."""
    ended = timezone.now() - timedelta(days=days)
    nodes = list(run.nodes.all())
    run.nodes.update(state="succeeded", attempt=1, ended_at=ended)
    Run.objects.filter(pk=run.pk).update(
        state="succeeded", active=0, open=0, succeeded=len(nodes), started_at=ended, ended_at=ended
    )
    folder = settings.HOME.logs / str(run.pk)
    folder.mkdir(parents=True)
    for node in nodes:
        attempt = Attempt.objects.create(
            node_run=node, number=1, state="succeeded", worker="w", ended_at=ended, log_bytes=5
        )
        Output.objects.create(attempt=attempt, name="a.txt", sha256="0" * 64, size=1)
        (folder / f"{node.pk}.1.log").write_text("hello")
    return run


def what_is_left() -> dict[str, list[int]]:
    """The ids of the runs that each kind of thing still belongs to."""
    return {
        "runs": list(Run.objects.order_by("pk").values_list("pk", flat=True)),
        "nodes": list(NodeRun.objects.order_by("pk").values_list("run", flat=True)),
        "outputs": list(
            Output.objects.order_by("pk").values_list("attempt__node_run__run", flat=True)
        ),
        "events": sorted(set(RunEvent.objects.values_list("run", flat=True))),
        "logs": sorted(int(name) for name in os.listdir(settings.HOME.logs)),
    }


@pytest.fixture(autouse=True)
def no_logs(settings, tmp_path):
    settings.HOME.logs.mkdir(parents=True, exist_ok=True)
    for folder in settings.HOME.logs.iterdir():
        module.remove_logs([int(folder.name)])


def test_runs_over_for_longer_than_the_retention_go_with_all_that_is_theirs():
    version = chain(2)
    old, young, open_ = by_hand(version), by_hand(version), by_hand(version)
    over(old, 91)
    over(young, 89)
    Run.objects.filter(pk=young.pk).update(rerun_of=old)
    Run.objects.filter(pk=open_.pk).update(created_at=timezone.now() - timedelta(days=400))
    expected = Forgotten(1, 2, 10, Run.objects.get(pk=old.pk).ended_at)

    assert doomed(days=90) == expected
    assert what_is_left()["runs"] == [old.pk, young.pk, open_.pk]
    assert prune(days=90) == expected

    assert what_is_left() == {
        "runs": [young.pk, open_.pk],
        "nodes": [young.pk, young.pk, open_.pk, open_.pk],
        "outputs": [young.pk, young.pk],
        "events": [young.pk, open_.pk],
        "logs": [young.pk],
    }
    assert Run.objects.get(pk=young.pk).rerun_of is None
    assert prune(days=90) == doomed(days=90) == Forgotten()


def test_retention_of_zero_days_keeps_everything():
    over(by_hand(chain(1)), 10_000)

    assert prune(days=0) == doomed(days=0) == Forgotten()
    assert Run.objects.count() == 1


def days(count: int) -> list[datetime]:
    return [timezone.now() - timedelta(days=n) for n in range(count)]


@pytest.mark.parametrize("runs", [2, 40])
def test_a_batch_costs_the_same_statements_however_much_goes(runs, django_assert_num_queries):
    made = launch(chain(3), cycles=days(runs), trigger=Trigger.MANUAL, by=None)
    for run in made:
        over(run, 100)

    # savepoint, lock, choice, nodes, runs, written, reruns, six deletions, release
    with django_assert_num_queries(16):
        batch = module._prune_batch(90)

    assert batch is not None
    assert (batch.runs, batch.node_runs) == (runs, 3 * runs)


def test_what_is_large_goes_in_batches_and_a_prune_that_runs_out_of_time_goes_on_later(monkeypatch):
    monkeypatch.setattr(module, "BATCH_NODES", 4)
    for run in launch(chain(3), cycles=days(5), trigger=Trigger.MANUAL, by=None):
        over(run, 100)

    assert prune(days=90, seconds=0) == Forgotten()
    assert module._prune_batch(90).runs == 1  # 3 nodes; two more would be 6
    assert prune(days=90).runs == 4


@pytest.mark.django_db(transaction=True)
def test_a_run_that_a_rerun_opens_at_this_moment_stays():
    run = over(by_hand(chain(1)), 100)
    done: list[Forgotten] = []

    def work():
        try:
            done.append(prune(days=90))
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    with transaction.atomic():
        list(NodeRun.objects.select_for_update(no_key=True).filter(run=run))
        thread.start()
        with connection.cursor() as cursor:
            until(lambda: waits_for_a_lock(cursor), "the prune at the lock")
        Run.objects.filter(pk=run.pk).update(state="running", ended_at=None)
    thread.join()

    assert done == [Forgotten()]
    assert what_is_left()["runs"] == [run.pk]


def waits_for_a_lock(cursor) -> bool:
    cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return bool(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
def test_two_at_once_are_one():
    over(by_hand(chain(1)), 100)
    done: list[Forgotten] = []

    def work():
        try:
            done.append(prune(days=90))
        finally:
            connection.close()

    with transaction.atomic():
        assert module._alone()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert done == [Forgotten()]
    assert prune(days=90).runs == 1


def aged(sha256: str) -> str:
    """Bytes as if they had been stored the day before yesterday."""
    path = default_storage.path(blob_name(sha256))
    os.utime(path, (0, 0))
    return sha256


def test_bytes_that_nothing_names_go_and_no_others():
    def stored(text: str) -> str:
        return aged(store(BytesIO(text.encode()))[0])

    young = store(BytesIO(b"young"))[0]
    unnamed, again = stored("unnamed"), stored("again")
    file = put_file(workspace(), "a.sql", BytesIO(b"a"), user=None)
    replaced = put_file(workspace(), "b.py", BytesIO(b"in a version"), user=None)
    job = create_job(
        workspace(), "j", "python", user=None, spec={"entry_file": "b.py", "content": ""}
    )
    publish_job(job, remarks="", user=None)
    delete_file(replaced)
    output = stored("output")
    attempt = Attempt.objects.create(
        node_run=by_hand(chain(1)).nodes.get(), number=1, state="succeeded", worker="w"
    )
    Output.objects.create(attempt=attempt, name="a.txt", sha256=output, size=1)
    for sha256 in (file.sha256, replaced.sha256):
        aged(sha256)
    store(BytesIO(b"again"))  # by a job that is about to name it

    collect_bytes()

    there = {
        sha256
        for sha256 in (young, unnamed, again, file.sha256, replaced.sha256, output)
        if default_storage.exists(blob_name(sha256))
    }
    assert there == {young, again, file.sha256, replaced.sha256, output}


def test_bytes_that_are_stored_again_while_others_are_removed_stay(monkeypatch):
    sent = {store(BytesIO(data))[0]: data for data in (b"one", b"two")}
    first, second = sorted(map(aged, sent))
    delete = default_storage.delete

    def and_someone_stores(name: str) -> None:
        delete(name)
        if name == blob_name(first):
            store(BytesIO(sent[second]))

    monkeypatch.setattr(default_storage, "delete", and_someone_stores)
    collect_bytes()

    there = [default_storage.exists(blob_name(sha256)) for sha256 in (first, second)]
    assert there == [False, True]


def test_the_command_says_what_would_go_and_what_went():
    over(by_hand(chain(2)), 100)
    collect_bytes()
    ended = Run.objects.get().ended_at

    def said(*arguments: str) -> list[str]:
        output = StringIO()
        call_command("prune", *arguments, stdout=output)
        return output.getvalue().splitlines()

    what = "1 runs that ended over 30 days ago, with 2 node runs and 10 bytes of logs"
    when = f"the oldest ended {ended:%Y-%m-%d %H:%M} UTC"
    assert said("--days", "30", "--dry-run") == [f"would be removed: {what}", when]
    assert said("--days", "30") == [
        f"removed: {what}",
        when,
        "removed: 0 stored files that nothing names",
    ]
    assert said("--days", "0") == ["Runs are kept for ever: --days or RUNYARD_RETENTION_DAYS is 0."]
