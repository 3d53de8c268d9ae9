"""What is run while harm is done: jobs that keep a journal, workflows of all shapes, and people.

All jobs write to one journal, a line at a time, by O_APPEND: the order of its lines is the order
in which things truly happened, whatever any clock or database says.

    17.2 start          attempt 2 of node run 17 has begun
    17.2 beat           it lives
    17.2 end 42         it is about to exit with 0, having written 42 bytes to its log
    17.2 fail           it is about to exit with another code
    17.2 stray          a process that it left behind lives
"""

from __future__ import annotations

import json
import random
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from apps.core.errors import Conflict
from apps.engine.backfill import Order, Which
from apps.engine.states import Hold, Missed, NodeState, Overlap, Trigger
from apps.nodes.services.jobs import create_job, publish_job
from apps.notifications.services.subscriptions import subscribe
from apps.runs.models import Backfill, NodeRun, Run
from apps.runs.services.anew import rerun_anew
from apps.runs.services.backfill import (
    Asked,
    cancel_backfill,
    create_backfill,
    pause_backfill,
    plan_backfill,
    resume_backfill,
)
from apps.runs.services.holding import hold, release
from apps.runs.services.launch import launch
from apps.runs.services.pause import pause_run, resume_run
from apps.runs.services.rerun import failed_scope, rerun_nodes, rerun_scope
from apps.runs.services.scheduling import switch
from apps.runs.services.stop import stop_node, stop_run
from apps.runs.services.success import set_success
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.drafting import WholeNode, create_workflow, replace_draft
from apps.workflows.services.publishing import publish
from apps.workspaces.models import TokenScope, User, Workspace, WorkspaceHold
from apps.workspaces.services import create_queue, create_token, create_workspace

#: Who is told of failures.
ADDRESS = "on-call@example.org"
#: Runs under way at once, at most.
MOST_RUNS = 14

_HEAD = """\
say() { echo "$RUNYARD_ATTEMPT $*" >> JOURNAL; }
size=0
out() { echo "$1"; size=$((size + ${#1} + 1)); }
beats() { i=0; while [ $i -lt $1 ]; do say beat; out "line $i"; i=$((i+1)); sleep 0.2; done; }
fine() { say end $size; exit 0; }
number=${RUNYARD_ATTEMPT#*.}
say start
"""

#: Name -> script. Those in WELL_BEHAVED end with 0 unless someone ends them.
SCRIPTS = {
    "quick": "out done; fine",
    "steady": "beats 4; fine",
    "long": "beats 30; fine",
    "very long": "beats 120; fine",
    "flaky": "beats 1; if [ $((number % 3)) -ne 0 ]; then say fail; exit 3; fi; fine",
    "failing": "out 'ValueError: as always'; say fail; exit 1",
    "slow": "beats 600; fine",
    # A loop in a session of its own, and one behind a fork of its own.
    "leaves strays": """\
loop='while :; do echo "$RUNYARD_ATTEMPT stray" >> JOURNAL; sleep 0.3; done'
setsid sh -c "$loop" < /dev/null > /dev/null 2>&1 &
(setsid sh -c "$loop" < /dev/null > /dev/null 2>&1 &)
beats 3; fine""",
    # Deaf to SIGTERM, it tries to end its worker (as a user of its own; one that is trusted
    # could), then suspends itself.
    "hostile": """\
trap '' TERM HUP INT
if [ "$(id -u)" -ge 200000 ]; then kill -9 $PPID 2>&-; kill -9 -- -$PPID 2>&-; fi
setsid env -i sh -c 'sleep 5' &
beats 2
kill -STOP $$
beats 600; fine""",
    "kills itself": "beats 1; kill -9 $$",
    "ugly log": "cat UGLY; size=UGLYSIZE; fine",
}
WELL_BEHAVED = {"quick", "steady", "long", "very long", "leaves strays", "ugly log"}
#: Jobs that count as injected faults, by their name in the report.
AS_FAULTS = {
    "hostile": "job that is hostile (deaf to SIGTERM, kills its parent, suspends itself)",
    "leaves strays": "job that leaves strays in other sessions",
    "ugly log": "job that logs a line of 10 MB, NUL, invalid UTF-8, ANSI, markup",
    "kills itself": "job that kills itself",
    "slow": "job that outlasts its time limit",
}
_WEIGHTS = {
    "quick": 30, "steady": 25, "long": 10, "very long": 2, "flaky": 8, "failing": 3, "slow": 3,
    "leaves strays": 5, "hostile": 1, "kills itself": 2, "ugly log": 2,
}  # fmt: skip


class Works:
    """The workspace, its jobs and published workflows."""

    def __init__(self, folder: Path, seed: str) -> None:
        self.folder = folder
        self.random = random.Random(f"{seed}/work")  # noqa: S311
        self.user = User.objects.create(username="chaos")
        self.workspace: Workspace = create_workspace("chaos", owner=self.user)
        create_queue(self.workspace, "narrow", capacity=1000, development=False, production=True)
        self.token = create_token(self.user, "chaos", scope=TokenScope.RUN)
        self.journal = folder / "journal"
        self.journal.touch()
        self.journal.chmod(0o666)
        ugly = folder / "ugly"
        ugly.write_bytes(_ugly())
        ugly.chmod(0o644)
        folder.chmod(0o711)
        self.jobs = {}
        for name, script in SCRIPTS.items():
            text = (_HEAD + script).replace("JOURNAL", str(self.journal))
            text = text.replace("UGLYSIZE", str(ugly.stat().st_size)).replace("UGLY", str(ugly))
            path = name.replace(" ", "_")
            job = create_job(
                self.workspace, path, "shell", user=self.user, spec={"content": text + "\n"}
            )
            publish_job(job, remarks="", user=self.user)
            self.jobs[name] = path
        self.versions: list[WorkflowVersion] = []
        self._made = 0

        self.scheduled = [
            self._every_minute(missed, overlap) for missed in Missed for overlap in Overlap
        ]
        #: Of each of them, since when and until when its schedule was on.
        self.on_at: dict[int, datetime] = {}
        self.off_at: dict[int, datetime] = {}

    def _every_minute(self, missed: Missed, overlap: Overlap) -> Workflow:
        """A published workflow of one or two nodes that is due each minute."""
        names = ["first", "second"][: self.random.randint(1, 2)]
        flow = create_workflow(self.workspace, f"{missed} {overlap}", user=self.user)
        replace_draft(
            flow,
            [
                WholeNode(name=name, job_path=self.jobs[self.random.choice(["quick", "steady"])])
                for name in names
            ],
            list(pairwise(names)),
            revision=flow.revision,
            queue="root_queue",
            schedule={
                "kind": "minutes",
                "every": 1,
                "started_at": "2026-01-01T00:00:00Z",
                "missed": missed.value,
            },
            overlap=overlap,
        )
        publish(flow, remarks="", user=self.user)
        subscribe(flow, [ADDRESS])
        return Workflow.objects.get(pk=flow.pk)

    def turn_on(self) -> None:
        """Let the schedules fall due from now on."""
        for flow in self.scheduled:
            schedule = switch(flow, on=True, user=self.user)
            assert schedule.changed_at is not None
            self.on_at[flow.pk] = schedule.changed_at

    def turn_off(self) -> None:
        """The end of the schedules; what fell due before still gets its run."""
        for flow in self.scheduled:
            schedule = switch(flow, on=False, user=self.user)
            assert schedule.changed_at is not None
            self.off_at[flow.pk] = schedule.changed_at

    def workflow(self) -> WorkflowVersion:
        """A new published workflow: a chain, a fan or a random graph of random jobs."""
        r = self.random
        self._made += 1  # whether or not the database lets it come about
        names, edges = r.choice([_chain, _fan, _dag, _dag])(r)
        flow = create_workflow(self.workspace, f"flow{self._made}", user=self.user)
        replace_draft(
            flow,
            [self._node(name) for name in names],
            edges,
            revision=flow.revision,
            queue=r.choice(["root_queue", "root_queue", "narrow"]),
            strategy=r.choice(["continue", "continue", "end"]),
            parallelism=r.choice([None, None, None, 1, 2, 5]),
            timeout_seconds=r.choice([None] * 9 + [20]),
            priority=r.choice([0, 1, 2, 2, 3, 4]),
            queue_timeout_seconds=r.choice([None] * 9 + [15]),
        )
        version = publish(flow, remarks="", user=self.user)
        subscribe(flow, [ADDRESS])
        self.versions.append(version)
        return version

    def _node(self, name: str) -> WholeNode:
        r = self.random
        kind = r.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        limit = {"slow": 3, "hostile": 4}.get(kind, r.choice([None] * 9 + [60]))
        return WholeNode(
            name=name,
            job_path=self.jobs[kind],
            queue=r.choice([None, None, None, "narrow"]),
            retries=r.choice([0, 1, 2, 3]),
            retry_interval_seconds=r.choice([0, 1, 2]),
            timeout_seconds=limit,
        )


def _chain(r: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"n{i:02}" for i in range(r.randint(2, 12))]
    return names, list(pairwise(names))


def _fan(r: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    leaves = [f"leaf{i:02}" for i in range(r.randint(3, 40))]
    edges = [("root", leaf) for leaf in leaves] + [(leaf, "join") for leaf in leaves]
    return ["root", *leaves, "join"], edges


def _dag(r: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    names = [f"d{i:02}" for i in range(r.randint(4, 16))]
    edges = {(up, down) for up, down in pairwise(names) if r.random() < 0.5}
    for i, down in enumerate(names):
        edges |= {(up, down) for up in names[:i] if r.random() < 0.2}
    return names, sorted(edges)


def _ugly() -> bytes:
    return (
        b"\x00\x01 NUL and \xff\xfe no UTF-8 \xc3\n"
        + b"\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link </script><script>x</script>\r\n"
        + b"x" * 10_000_000  # one line, and its end is missing
    )


class People:
    """Someone who starts, stops, pauses, repeats and declares done, all the time."""

    def __init__(self, works: Works, seed: str, address: str) -> None:
        self.works = works
        self.address = address
        self.random = random.Random(f"{seed}/people")  # noqa: S311
        self.did: Counter[str] = Counter()
        self.launched: list[int] = []
        #: Of each backfill, the cycles that its preview showed.
        self.previews: dict[int, list[datetime]] = {}
        self.failed: list[str] = []
        self.late: Counter[str] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="people", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        self._over.set()
        self._thread.join()

    def _live(self) -> None:
        acts: dict[Callable[[], str | None], int] = {
            self._launch: 40, self._launch_by_rest: 15, self._stop: 4, self._stop_node: 5,
            self._pause: 6, self._resume: 12, self._rerun_failed: 8, self._rerun_some: 5,
            self._rerun: 2, self._set_success: 5, self._hold: 2, self._release: 8,
            self._backfill: 4, self._pause_backfill: 2, self._resume_backfill: 4,
            self._cancel_backfill: 1,
        }  # fmt: skip
        while not self._over.wait(self.random.uniform(0.05, 0.6)):
            act = self.random.choices(list(acts), list(acts.values()))[0]
            try:
                if name := act():
                    self.did[name] += 1
            except Conflict as error:
                self.did["came too late"] += 1
                self.late[f"{act.__name__}: {error}"[:60]] += 1
            except (OperationalError, InterfaceError):
                connection.close()
                self.did["found no database"] += 1
            except Exception as error:
                connection.close()
                self.failed.append(f"{act.__name__}: {type(error).__name__}: {error}")
        connection.close()

    def _is_busy(self) -> bool:
        return Run.objects.filter(ended_at=None).count() >= MOST_RUNS

    def _version(self) -> WorkflowVersion:
        if len(self.works.versions) < 12 or self.random.random() < 0.2:
            return self.works.workflow()
        return self.random.choice(self.works.versions)

    def _launch(self) -> str | None:
        if self._is_busy():
            return None
        [run] = launch(
            self._version(),
            cycles=[timezone.now()],
            trigger=Trigger.MANUAL,
            by=self.works.user,
        )
        self.launched.append(run.pk)
        return "launch"

    def _launch_by_rest(self) -> str | None:
        if self._is_busy() or not self.address:
            return None
        workflow = self._version().workflow_id
        request = urllib.request.Request(  # noqa: S310 -- our own address
            f"{self.address}/api/v1/workspaces/chaos/workflows/{workflow}/run",
            data=b"{}",
            headers={
                "Authorization": f"Bearer {self.works.token}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
                self.launched += json.load(answer)["runs"]
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise
            return "launch over REST (answer: no database)"
        except (OSError, ValueError, urllib.error.URLError):
            return "launch over REST (no answer)"
        return "launch over REST"

    def _some(self, **wanted: object) -> Run | None:
        found = list(Run.objects.filter(**wanted).order_by("-pk")[:30])
        return self.random.choice(found) if found else None

    def _stop(self) -> str | None:
        run = self._some(ended_at=None)
        if run is None:
            return None
        stop_run(run, user=self.works.user)
        return "stop"

    def _stop_node(self) -> str | None:
        nodes = NodeRun.objects.filter(run__ended_at=None)
        wanted = [NodeState.RUNNING, NodeState.QUEUED, NodeState.RETRYING, NodeState.PENDING]
        found = list(nodes.filter(state=self.random.choice(wanted))[:30])
        if not found:
            return None
        stop_node(self.random.choice(found), user=self.works.user)
        return "stop a node"

    def _pause(self) -> str | None:
        run = self._some(ended_at=None, hold=Hold.NONE)
        if run is None:
            return None
        pause_run(run, user=self.works.user)
        return "pause"

    def _resume(self) -> str | None:
        run = self._some(ended_at=None, hold=Hold.PAUSED)
        if run is None:
            return None
        resume_run(run, user=self.works.user)
        return "resume"

    def _hold(self) -> str | None:
        queue = self.random.choice([None, *self.works.workspace.queues.order_by("pk")])
        hold(self.works.workspace, queue=queue, user=self.works.user)
        return "hold a queue or the workspace"

    def _release(self) -> str | None:
        standing = WorkspaceHold.objects.filter(released_at=None).first()
        if standing is None:
            return None
        release(standing, user=self.works.user)
        return "release a hold"

    def _backfill(self) -> str | None:
        if self._is_busy() or Backfill.objects.filter(ended_at=None).count() >= 2:
            return None
        r = self.random
        first = date(2026, 1, 1) + timedelta(days=r.randrange(60))
        asked = Asked(
            first_date=first,
            last_date=first + timedelta(days=r.randrange(5)),
            order=r.choice(list(Order)),
            which=r.choice([Which.ALL, Which.ALL, Which.MISSING]),
        )
        workflow = self._version().workflow
        plan = plan_backfill(workflow, asked)
        if not plan.cycles:
            return None
        made = create_backfill(
            workflow,
            asked,
            user=self.works.user,
            token=plan.token,
            at_once=r.choice([1, 2, 3]),
            stop_after=r.choice([None, None, 1]),
        )
        self.previews[made.pk] = [planned.cycle for planned in plan.cycles]
        return "make a backfill"

    def _some_backfill(self, **wanted: object) -> Backfill | None:
        found = list(Backfill.objects.filter(ended_at=None, cancelled_at=None, **wanted))
        return self.random.choice(found) if found else None

    def _pause_backfill(self) -> str | None:
        if (backfill := self._some_backfill(paused_at=None)) is None:
            return None
        pause_backfill(backfill, user=self.works.user)
        return "pause a backfill"

    def _resume_backfill(self) -> str | None:
        if (backfill := self._some_backfill(paused_at__isnull=False)) is None:
            return None
        resume_backfill(backfill, user=self.works.user)
        return "resume a backfill"

    def _cancel_backfill(self) -> str | None:
        if (backfill := self._some_backfill()) is None:
            return None
        cancel_backfill(backfill, user=self.works.user, stop_running=self.random.random() < 0.5)
        return "cancel a backfill"

    def resume_all(self) -> None:
        """What people hold back goes on, and so does a backfill that has stopped by itself."""
        for backfill in Backfill.objects.filter(ended_at=None, paused_at__isnull=False):
            resume_backfill(backfill, user=self.works.user)
        for standing in WorkspaceHold.objects.filter(released_at=None):
            release(standing, user=self.works.user)
        for run in Run.objects.filter(ended_at=None, hold=Hold.PAUSED):
            resume_run(run, user=self.works.user)
        connection.close()

    def _rerun_failed(self) -> str | None:
        run = self._some(state__in=["failed", "stopped"])
        if run is None or self._is_busy():
            return None
        rerun_nodes(run, failed_scope(run), user=self.works.user)
        return "rerun what failed"

    def _rerun_some(self) -> str | None:
        run = self._some(ended_at__isnull=False)
        if run is None or self._is_busy():
            return None
        key = self.random.choice(list(run.nodes.order_by("pk").values_list("key", flat=True)))
        scope = rerun_scope(run, key, downstream=self.random.random() < 0.6)
        rerun_nodes(run, scope, user=self.works.user)
        return "rerun some nodes"

    def _rerun(self) -> str | None:
        run = self._some(ended_at__isnull=False)
        if run is None or self._is_busy():
            return None
        self.launched.append(rerun_anew(run, user=self.works.user).pk)
        return "rerun as a new run"

    def _set_success(self) -> str | None:
        nodes = NodeRun.objects.exclude(state__in=["running", "succeeded"]).order_by("-pk")
        found = list(nodes[:30])
        if not found:
            return None
        set_success(self.random.choice(found), reason="chaos", user=self.works.user)
        return "set to success"
