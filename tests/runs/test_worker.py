"""Real workers on the real database and broker, from a launch to what people see of it."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import connection, transaction
from django.db.models import Max, Min

from apps.core.home import Home
from apps.engine.states import RunState
from apps.engine.timevars import BUILT_IN
from apps.nodes.services.files import open_blob, put_file
from apps.runs import doorbell, worker
from apps.runs.logs import log_of
from apps.runs.models import Attempt, NodeRun, Output
from apps.runs.services.hot_path import claim
from apps.runs.services.stop import stop_node, stop_run
from apps.runs.services.sweep import tick
from apps.workspaces.models import ResourceQueue
from tests.factories import by_hand, job, published, workspace
from tests.waiting import until
from tests.workers import LEASE_SECONDS, alive, attempts, ended, nodes, running, ticking

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]


def only(run) -> Attempt:
    return Attempt.objects.get(node_run__run=run)


# --- an ordinary run ------------------------------------------------------------------------


def test_diamond_runs_to_green_each_node_after_its_parents(start, tmp_path):
    #   a ─→ b ─┐
    #    └─→ c ─┴→ d
    start()
    run = by_hand(
        published(
            "a", "b", "c", "d",
            edges=[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")],
            content=f'echo "$RUNYARD_NODE" >> {tmp_path}/journal',
        )
    )  # fmt: skip

    until(lambda: ended(run), "the run's end")

    journal = (tmp_path / "journal").read_text().split()
    assert (run.state, nodes(run)) == (RunState.SUCCEEDED, dict.fromkeys("abcd", "succeeded"))
    assert (journal[0], set(journal[1:3]), journal[3:]) == ("a", {"b", "c"}, ["d"])
    assert set(ResourceQueue.objects.values_list("used", flat=True)) == {0}


def test_job_finds_its_files_parameters_and_folders_and_leaves_log_and_outputs(start, tmp_path):
    start()
    with (tmp_path / "rows.txt").open("w+b") as file:
        file.write(b"1 2 3\n")
        file.seek(0)
        put_file(workspace(), "data/rows.txt", file, user=None)
    script = """
        echo "$greeting from $RUNYARD_WORKSPACE/$RUNYARD_WORKFLOW/$RUNYARD_NODE $RUNYARD_ATTEMPT"
        cat "$RUNYARD_FILES/data/rows.txt"
        echo '# Report' > "$RUNYARD_OUTPUT_DIR/report.md"
        ln -s /etc/passwd "$RUNYARD_OUTPUT_DIR/stolen.txt"
        echo kept > "$RUNYARD_DATA/kept"
        pwd
    """
    speak = job("speak", script, files=["data/rows.txt"], parameters={"greeting": "hello"})
    run = by_hand(published("say", uses={"say": speak}, name="talk"))

    until(lambda: ended(run), "the run's end")

    attempt = only(run)
    log = log_of(run.pk, attempt.node_run_id, 1).read().data.decode()
    lines = log.splitlines()
    assert run.state == RunState.SUCCEEDED, log
    assert lines[:2] == [f"hello from default/talk/say {attempt.node_run_id}.1", "1 2 3"]
    assert (
        lines[3] == "runyard: output 'stolen.txt' was left out: Too many levels of symbolic links"
    )
    assert (attempt.log_bytes, attempt.log_lines, attempt.log_tail) == (len(log), 4, log)
    [output] = Output.objects.filter(attempt=attempt)
    with open_blob(output.sha256) as file:
        assert (output.name, file.read()) == ("report.md", b"# Report\n")
    until(lambda: not Path(lines[2]).exists(), "the removal of the attempt's folder")


def test_jobs_environment_is_built_from_nothing(start, monkeypatch):
    monkeypatch.setenv("RUNYARD_SECRET_KEY", "do-not-tell")
    start()
    run = by_hand(published("look", content="env | cut -d= -f1 | sort"))

    until(lambda: ended(run), "the run's end")

    of_bash = {"PWD", "SHLVL", "_"}
    assert set(only(run).log_tail.split()) - of_bash == {
        "HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "PYTHONUNBUFFERED", "RUNYARD_ATTEMPT",
        "RUNYARD_CYCLE", "RUNYARD_DATA", "RUNYARD_FILES", "RUNYARD_NODE", "RUNYARD_OUTPUT",
        "RUNYARD_OUTPUT_DIR", "RUNYARD_RUN", "RUNYARD_WORKER", "RUNYARD_WORKFLOW",
        "RUNYARD_WORKSPACE", "TMPDIR", "USER", *BUILT_IN,
    }  # fmt: skip


def test_lost_bell_costs_seconds_not_the_run(start, monkeypatch):
    start()
    monkeypatch.setattr(doorbell, "ring", lambda bells, **_: None)
    run = by_hand(published("a"))

    until(lambda: ended(run), "the run's end", seconds=10)

    assert run.state == RunState.SUCCEEDED


def test_one_look_starts_all_nodes_that_no_bell_told_of(start, monkeypatch):
    start()
    monkeypatch.setattr(doorbell, "ring", lambda bells, **_: None)
    ResourceQueue.objects.update(capacity=100)
    run = by_hand(published(*"abcdefgh", content="sleep 60"))

    until(lambda: run.nodes.filter(state="running").count() == 8, "eight starts", seconds=20)

    begun = Attempt.objects.aggregate(first=Min("started_at"), last=Max("started_at"))
    assert begun["last"] - begun["first"] < timedelta(seconds=worker._LOOK_SECONDS)


def test_bell_that_rings_twice_runs_a_node_once(start, tmp_path):
    start()
    run = by_hand(published("a", content=f"echo ran >> {tmp_path}/journal"))
    for _ in range(20):
        doorbell.ring({run.nodes.get().queue_id: 2})

    until(lambda: ended(run), "the run's end")

    assert (tmp_path / "journal").read_text() == "ran\n"


# --- failures -------------------------------------------------------------------------------


def test_failed_node_is_tried_again_and_says_why_it_failed(start):
    start()
    script = "echo starting; echo 'disk on fire' >&2; exit 3"
    run = by_hand(
        published(
            "a",
            "b",
            edges=[("a", "b")],
            content=script,
            node={"retries": 1, "retry_interval_seconds": 0},
        )
    )

    ticking(lambda: ended(run), "the run's end")

    node = run.nodes.get(key="a")
    assert (run.state, nodes(run)) == (RunState.FAILED, {"a": "failed", "b": "pending"})
    assert (node.failures, node.losses, node.exit_code) == (2, 0, 3)
    assert [
        (a.state, a.reason, a.error_line, a.log_tail) for a in node.attempts.order_by("pk")
    ] == [("failed", "exit code 3", "disk on fire", "starting\ndisk on fire\n")] * 2


def test_exit_code_that_is_final_is_not_retried_and_another_one_is(start):
    start()
    script = '[ "$RUNYARD_NODE" = a ] && exit 64; exit 65'
    run = by_hand(
        published(
            "a",
            "b",
            content=script,
            retries=1,
            retry_interval_seconds=0,
            final_exit_codes=[2, 64],
        )
    )

    ticking(lambda: ended(run), "the run's end")

    assert dict(run.nodes.values_list("key", "failures")) == {"a": 1, "b": 2}
    assert (run.state, nodes(run)) == (RunState.FAILED, {"a": "failed", "b": "failed"})


def test_timeout_is_retried_whatever_code_the_job_ends_with(start):
    start()
    run = by_hand(
        published(
            "a",
            content="trap 'exit 64' TERM; sleep 100 & wait",
            final_exit_codes=[64],
            node={"timeout_seconds": 1, "retries": 1, "retry_interval_seconds": 0},
        )
    )

    ticking(lambda: ended(run), "the run's end")

    found = [(a.exit_code, a.reason) for a in Attempt.objects.order_by("number")]
    assert found == [(64, "timed out after 1 s")] * 2


def test_pauses_of_a_back_off_grow_and_lose_at_most_half_to_chance(start):
    start()
    policy = {"retries": 9, "retry_interval_seconds": 1000, "retry_backoff": 3.0}
    run = by_hand(published("a", content="exit 1", **policy, retry_max_interval_seconds=5000))
    pauses = []

    for failures in (1, 2, 3):
        failed = run.nodes.filter(state="retrying", failures=failures)
        node = until(failed.first, "its failure")
        pauses.append((node.retry_at - node.ended_at).total_seconds())
        NodeRun.objects.update(retry_at=node.ended_at)
        tick()

    longest = (1000, 3000, 5000)
    assert [most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True)] == [
        True
    ] * 3, pauses
    assert any(pause < most - 1 for pause, most in zip(pauses, longest, strict=True)), pauses


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param(
            {"kind": "python", "content": "pass", "python": {"interpreter": "/no/python"}},
            "the interpreter /no/python is not on this worker",
            id="its Python is not here",
        ),
        pytest.param({"content": "#!/no/such/program"}, "cannot be started: ", id="no program"),
    ],
)
def test_job_that_cannot_start_fails_with_the_reason_in_row_and_log(start, spec, reason):
    worker = start()
    run = by_hand(published("a", uses={"a": job("broken", **spec)}))

    until(lambda: ended(run), "the run's end")

    attempt = only(run)
    assert (run.state, attempt.exit_code) == (RunState.FAILED, None)
    assert attempt.reason.startswith(reason)
    assert attempt.log_tail == f"runyard: {attempt.reason}\n"
    assert worker.children() == []


def test_node_that_takes_too_long_is_ended_with_all_that_it_started(start, tmp_path):
    worker = start()
    run = by_hand(
        published(
            "a",
            content=f"sleep 100 & echo $! > {tmp_path}/kid; trap 'echo asked' TERM; wait; wait",
            node={"timeout_seconds": 1},
        )
    )

    until(lambda: ended(run), "the run's end")

    attempt = only(run)
    assert (run.state, attempt.state, attempt.reason) == ("failed", "failed", "timed out after 1 s")
    assert attempt.log_tail == "asked\n"
    assert worker.children() == []


def test_log_of_any_bytes_is_kept_as_it_is(start):
    start()
    odd = r"printf 'a\0b\xff\xfe\x1b[31mred</script>'"
    run = by_hand(published("a", content=f"{odd}; head -c 10000000 /dev/zero | tr '\\0' x; exit 1"))

    until(lambda: ended(run), "the run's end")

    attempt = only(run)
    log = log_of(run.pk, attempt.node_run_id, 1)
    assert log.read(0, 22).data == b"a\0b\xff\xfe\x1b[31mred</script>"
    assert (attempt.log_bytes, attempt.log_lines) == (10_000_022, 1)
    assert (attempt.log_tail, attempt.reason) == ("x" * 4096, "exit code 1")


def test_log_above_its_limit_keeps_its_ends_and_the_job_goes_on(start):
    start(log_limit_bytes=128 * 1024)
    run = by_hand(published("a", content="seq 1000000; echo the end"))

    until(lambda: ended(run), "the run's end")

    attempt = only(run)
    log = log_of(run.pk, attempt.node_run_id, 1)
    begin, left = log.hole()
    assert run.state == RunState.SUCCEEDED
    assert (attempt.log_lines, attempt.log_bytes) == (1_000_001, 6_888_904)
    assert attempt.log_tail.endswith("1000000\nthe end\n")
    assert log.read(0, 4).data == b"1\n2\n"
    assert left - begin > 6_500_000
    assert log.path.stat().st_blocks * 512 < 200_000
    tail = log.tail()
    until(lambda: not log.path.exists(), "the packing of the log")
    assert (log.tail(), log.hole(), log.size()) == (tail, (begin, left), 6_888_904)
    assert log.packed.path.stat().st_size < 60_000


def test_finished_job_is_not_run_again_because_its_log_cannot_be_cut(start, home, tmp_path):
    """On a full disk, or where the job put a folder in the way of the note."""
    start(log_limit_bytes=64 * 1024, job_uid_base=0)
    script = f"""
        echo x >> {tmp_path}/starts
        mkdir {home.logs}/$RUNYARD_RUN/$RUNYARD_ATTEMPT.new
        seq 100000
    """
    run = by_hand(published("a", content=script))

    ticking(lambda: ended(run), "the run's end")

    assert (run.state, (tmp_path / "starts").read_text()) == (RunState.SUCCEEDED, "x\n")
    assert (only(run).log_bytes, only(run).log_lines) == (588_895, 100_000)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("truncate -s 3T /dev/stdout", id="terabytes of nothing"),
        pytest.param("env -i setsid yes &", id="one that goes on writing"),
    ],
)
def test_one_jobs_log_holds_up_neither_itself_nor_another_jobs_time_limit(start, script):
    start(job_uid_base=0)
    slow = job("slow", "sleep 100")
    odd = by_hand(published("odd", uses={"odd": job("odd", script)}, name="odd"))
    other = by_hand(published("a", uses={"a": slow}, name="slow", node={"timeout_seconds": 1}))

    until(lambda: ended(odd) and ended(other), "both ends")

    assert (odd.state, only(other).reason) == (RunState.SUCCEEDED, "timed out after 1 s")


def test_worker_that_ends_leaves_no_stray_even_one_without_a_mark(start, tmp_path):
    worker = start(job_uid_base=0)
    slow = by_hand(published("a", uses={"a": job("slow", "sleep 100")}, name="slow"))
    running(slow, "a")
    script = f"env -i setsid sleep 300 & echo $! > {tmp_path}/stray; sleep 1"
    odd = by_hand(published("odd", uses={"odd": job("odd", script)}, name="odd"))
    until(lambda: ended(odd), "its end")
    stray = int((tmp_path / "stray").read_text())
    assert alive(stray)  # as long as it may belong to the slow one

    worker.end()

    until(lambda: not alive(stray), "the stray's end")


def test_node_that_no_slot_holds_is_given_away_and_that_costs_a_loss(start, monkeypatch):
    worker = start()
    monkeypatch.setattr(doorbell, "ring", lambda bells, **_: None)
    run = by_hand(published("a"))
    node = run.nodes.get()
    claim(node.queue_id, worker.name, uuid4())  # its reply is lost

    ticking(lambda: ended(run), "the run's end")

    node.refresh_from_db()
    assert (attempts(node), node.losses) == (["lost", "succeeded"], 1)
    assert f"node run {node.pk}, attempt 1 is held by nobody here" in worker.said()


# --- others in the way ----------------------------------------------------------------------


@contextlib.contextmanager
def locked(node: NodeRun) -> Iterator[None]:
    """Someone, elsewhere, who holds a node's row and does not let go."""
    holds, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            NodeRun.objects.select_for_update(no_key=True).get(pk=node.pk)
            holds.set()
            enough.wait()
        connection.close()

    other = threading.Thread(target=hold)
    other.start()
    holds.wait()
    try:
        yield
    finally:
        enough.set()
        other.join()


def test_row_that_someone_locks_costs_no_other_node_its_lease(start):
    worker = start()
    run = by_hand(published("a", "b", content="sleep 100"))
    a, b = running(run, "a"), running(run, "b")
    first = b.lease_until

    def renewed_twice() -> bool:
        b.refresh_from_db()
        return (b.lease_until - first).total_seconds() > 2 * LEASE_SECONDS

    with locked(a):
        until(renewed_twice, "b's leases")

    assert f"did not renew {a.pk}.1 in time" in worker.said()
    assert f"{b.pk}.1" not in worker.said()


def test_row_that_was_locked_for_a_part_of_its_lease_is_renewed_as_soon_as_it_is_free(start):
    worker = start()
    run = by_hand(published("a", content="sleep 100"))
    node = running(run, "a")
    first = node.lease_until

    with locked(node):
        time.sleep(LEASE_SECONDS / 2)  # past several renewals, not past the lease
    until(lambda: run.nodes.get().lease_until > first + timedelta(seconds=2 * LEASE_SECONDS))

    assert "did not renew" not in worker.said()


# --- stopping -------------------------------------------------------------------------------

#: A tree of which no process heeds SIGTERM, and one has a session of its own.
STUBBORN = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 100' & sleep 100 & wait; sleep 100"


@pytest.mark.parametrize(
    ("stop", "state"),
    [
        pytest.param(lambda node: stop_node(node, user=None), "stopped", id="the node"),
        pytest.param(lambda node: stop_run(node.run, user=None), "stopped", id="the run"),
    ],
)
def test_stopped_node_is_gone_within_the_grace_with_its_whole_tree(start, stop, state):
    worker = start()
    run = by_hand(published("a", "b", edges=[("a", "b")], content=STUBBORN))
    node = running(run, "a")
    until(lambda: len(worker.children()) >= 4, "the job's tree")

    asked = time.monotonic()
    stop(node)
    until(lambda: ended(run), "the run's end")

    assert time.monotonic() - asked < 1 + 1 + 2.5  # to be asked, the grace, a loaded machine
    until(lambda: not worker.children(), "the end of the tree", seconds=2)
    node.refresh_from_db()
    assert (run.state, node.state, attempts(node)) == ("stopped", state, [state])
    assert node.failures == 0


def test_other_runs_go_on_beside_a_stopped_one(start):
    start()
    stopped = by_hand(published("a", name="one", content="sleep 100"))
    other = by_hand(published("a", name="two", content="sleep 2"))
    node = running(stopped, "a")

    stop_node(node, user=None)

    until(lambda: ended(stopped) and ended(other), "both ends")
    assert (stopped.state, other.state) == ("stopped", "succeeded")


def test_what_a_finished_job_left_running_is_ended(start, tmp_path):
    """In its group, in a session of its own, or with an emptied environment."""
    worker = start()
    script = f"""
        for n in 1 2; do [ $n = 1 ] && s= || s=setsid; $s sleep 100 & done
        env -i setsid sh -c 'echo $$ > {tmp_path}/bare; exec sleep 100' &
        until [ -s {tmp_path}/bare ]; do sleep 0.01; done
    """
    run = by_hand(published("a", content=script))

    until(lambda: ended(run), "the run's end")

    bare = int((tmp_path / "bare").read_text())
    until(lambda: not worker.children() and not alive(bare), "the end of the rest", seconds=5)
    assert run.state == RunState.SUCCEEDED


# --- a worker that is told to end -----------------------------------------------------------


def test_drained_worker_lets_a_short_node_end(start):
    worker = start(stop_grace_seconds=20)
    run = by_hand(published("a", "b", edges=[("a", "b")], content="sleep 2"))
    running(run, "a")

    assert worker.end() == 0

    assert nodes(run) == {"a": "succeeded", "b": "queued"}


def test_drained_worker_hands_a_long_node_back_and_it_costs_nothing(start, tmp_path):
    worker = start()
    wait = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    run = by_hand(published("a", content=wait))
    node = running(run, "a")

    assert worker.end() == 0

    node.refresh_from_db()
    assert (node.state, attempts(node)) == ("queued", ["handed_back"])
    assert worker.children() == []
    (tmp_path / "go").touch()
    start("w2")
    until(lambda: ended(run), "the run's end")
    node.refresh_from_db()
    assert (run.state, attempts(node)) == ("succeeded", ["handed_back", "succeeded"])
    assert (node.failures, node.losses) == (0, 0)


def test_second_signal_ends_a_worker_at_once_and_its_guard_ends_the_children(start):
    worker = start(stop_grace_seconds=60)
    run = by_hand(published("a", content=STUBBORN))
    running(run, "a")
    until(lambda: len(worker.children()) >= 4, "the job's tree")

    worker.process.send_signal(signal.SIGTERM)
    time.sleep(1)  # closer together they count as one
    code = worker.end(signal.SIGTERM, seconds=3)

    assert code == 128 + signal.SIGTERM
    until(lambda: not worker.children(), "the end of the tree", seconds=5)


def test_worker_leaves_no_folder_and_no_guard_behind(start, home):
    worker = start()
    guard = worker.guard
    run = by_hand(published("a"))
    until(lambda: ended(run), "the run's end")

    worker.end()

    assert (os.listdir(home.work), alive(guard)) == ([], False)


# --- whom jobs run as -----------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="switching users needs root")
@pytest.mark.parametrize(
    ("python", "mode"),
    [
        pytest.param("reachable", 0o711, id="users of their own"),
        pytest.param("hidden", 0o700, id="trusted"),
    ],
)
def test_home_opens_for_the_jobs_users_alone_and_only_if_there_are_any(
    settings, monkeypatch, python, mode
):
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o711)
        home = Home(Path(top) / "home")
        home.make()
        (home.path / "up.json").write_text("{}")
        (home.path / "up.json").chmod(0o644)
        home.blobs.chmod(0o755)
        interpreter = Path(top) / python
        interpreter.write_text("#!/bin/sh\n")
        interpreter.chmod(0o755 if python == "reachable" else 0o700)
        settings.HOME = home
        monkeypatch.setattr(worker, "default_interpreter", lambda: interpreter)

        found = worker.find_identity()

        modes = {path.name: path.stat().st_mode & 0o777 for path in home.path.iterdir()}
        assert (found.base is None, home.path.stat().st_mode & 0o777) == (mode == 0o700, mode)
        assert {modes[name] for name in ("up.json", "blobs")} <= {0o600, 0o700}
        shared = {"work", "data", "environments"} & modes.keys()
        assert (len(shared) > 0, {modes[name] for name in shared}) == (True, {0o711})


def python_for_all() -> str:
    """A Python that every user can run, unlike one below /root; "" if there is none."""
    for python in [Path("/usr/bin/python3"), Path("/usr/local/bin/python3")]:
        real = python.resolve()
        if real.exists() and all(folder.stat().st_mode & 0o001 for folder in real.parents):
            return str(real)
    return ""


needs_users = pytest.mark.skipif(
    os.geteuid() != 0 or not python_for_all(),
    reason="needs root, and a Python that every user can run",
)


@needs_users
def test_hostile_job_reaches_neither_the_worker_nor_the_servers_nor_another_workspace(
    start, home, tmp_path
):
    """Runs as a user of its own, and still has all that a job is promised."""
    mine = start(base_python=python_for_all(), secret_key="do-not-tell")
    assert "jobs are trusted" not in mine.said()
    victim = home.data / "999"
    victim.mkdir(mode=0o700)
    (victim / "theirs").write_text("theirs")
    with (tmp_path / "rows.txt").open("w+b") as file:
        file.write(b"rows\n")
        file.seek(0)
        put_file(workspace(), "rows.txt", file, user=None)
    script = f"""
        id -u; id -G; cat "$RUNYARD_FILES/rows.txt"; echo kept > "$RUNYARD_DATA/kept"
        echo '# Report' > "$RUNYARD_OUTPUT_DIR/report.md"; echo again >> /dev/stderr
        exec 2>/dev/null
        cat /proc/$PPID/environ /proc/{mine.pid}/environ {home.path}/keys/* {victim}/theirs
        ls {home.path} {home.path}/work {home.path}/work/* {home.path}/logs {home.path}/database
        ls /proc/{mine.pid}/fd {home.sockets}; kill -9 {mine.pid} {mine.guard}
        echo x > {home.sockets}/valkey.sock; echo x >> {home.path}/up.json
        exit 0
    """
    hostile = job("hostile", script, files=["rows.txt"])
    run = by_hand(published("a", uses={"a": hostile}))

    until(lambda: ended(run), "the run's end")

    uid = 200_000 + workspace().pk
    assert only(run).log_tail == f"{uid}\n{uid}\nrows\nagain\n"
    assert (run.state, Output.objects.get().name) == ("succeeded", "report.md")
    assert (home.data / str(workspace().pk)).stat().st_uid == uid
    assert alive(mine.pid)
    assert alive(mine.guard)


@needs_users
def test_jobs_of_other_users_are_stopped_and_leave_nothing_either(start):
    mine = start(base_python=python_for_all())
    run = by_hand(published("a", content=STUBBORN))
    node = running(run, "a")
    until(lambda: len(mine.children()) >= 4, "the job's tree")

    stop_node(node, user=None)

    until(lambda: ended(run), "the run's end")
    until(lambda: not mine.children(), "the end of the tree", seconds=2)
