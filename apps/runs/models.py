"""The life of runs. The database is the queue: these rows are the truth, messages only hints.

A bare `.save()` on Run, NodeRun or Attempt is a bug: the engine writes here too. Changes of
state go through `services.moves.move` and the hot path (sql/hot_path.sql).
"""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import ExpressionWrapper, Q
from django.db.models.functions import Now
from django.db.models.lookups import Exact

from apps.engine.backfill import MOST_AT_ONCE, Act, Order, Which, acts
from apps.engine.priority import Priority
from apps.engine.retry import RetryPolicy, in_words
from apps.engine.serving import read_names, serves
from apps.engine.states import (
    AttemptState,
    Hold,
    NodeState,
    RunState,
    Strategy,
    Trigger,
)
from apps.nodes.models import Job, JobVersion
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workspaces.models import InWorkspaceQuerySet, ResourceQueue, Workspace


class Lane(models.Model):
    """Decides when a run may start: so many of its runs at once, first come, first served.

    The other gate, after it, is a resource queue's: there nodes wait for capacity. A run holds
    its place from its admission until it is over. Nodes that run again in a run that was over
    do not wait for a place; while they run, the lane may hold one run more than its limit.
    """

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="lanes", db_index=False)
    #: Whose it is, unique in the workspace: "workflow 4" for its scheduled runs.
    owner = models.CharField(max_length=255)
    #: Runs at once; None: no limit, 0: none starts for now.
    limit = models.PositiveIntegerField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace", "owner"], name="lane_once"),
        ]

    def __str__(self) -> str:
        return f"lane of {self.owner}"


def _iff(one: Q, other: Q) -> Exact[bool]:
    """True where both hold, or neither does.

    What `~(one ^ other)` means, in a third of the words: PostgreSQL reads a table's constraints
    anew for each statement that writes a row, and a hop has many.
    """
    sides = (ExpressionWrapper(q, models.BooleanField()) for q in (one, other))
    return Exact(*sides)


class Run(models.Model):
    """One run of a workflow's version, or of one job without a workflow.

    Versions, queue and variables are fixed at launch. The counters serve the header, the
    lists and the limits; `active` = nodes queued or running, `open` = those, the retrying
    and the ready that are held back: at 0 the run has ended.
    """

    # Workspace, workflow and job have no index of their own: those of the lists begin with them.
    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="runs", db_index=False)
    workflow = models.ForeignKey(
        Workflow, models.CASCADE, null=True, related_name="runs", db_index=False
    )
    version = models.ForeignKey(WorkflowVersion, models.PROTECT, null=True, related_name="runs")
    #: The job of an ad-hoc run; None for a workflow's.
    job = models.ForeignKey(Job, models.CASCADE, null=True, related_name="runs", db_index=False)
    #: Name of the workflow or path of the job at launch; outlives both.
    name = models.CharField(max_length=255)
    #: What takes turns in a queue: one workflow's runs, or one backfill (hot path).
    flow = models.BigIntegerField()
    #: When it is, or would have been, due (UTC); a manual run's is the time of the request.
    cycle = models.DateTimeField()
    trigger = models.CharField(max_length=10, choices=[(t.value, t.value) for t in Trigger])
    state = models.CharField(
        max_length=10,
        choices=[(s.value, s.value) for s in RunState],
        default=RunState.PENDING,
    )
    hold = models.CharField(
        max_length=10,
        choices=[(h.value, h.value) for h in Hold],
        default=Hold.NONE,
        blank=True,
    )
    #: A tag of its workflow is held: like a pause, and apart from a person's pause of this run.
    held = models.BooleanField(default=False)
    strategy = models.CharField(
        max_length=10,
        choices=[(s.value, s.value) for s in Strategy],
        default=Strategy.CONTINUE,
    )
    #: Which gate it passes before it starts; None: it starts at once. Without an index of its
    #: own, which would hold every run there ever was: the line and those in it have theirs.
    lane = models.ForeignKey(Lane, models.RESTRICT, null=True, related_name="runs", db_index=False)
    #: Not yet admitted, by its lane or since another runs the same cycle: nothing of it is
    #: queued. Not of use for a run that is over.
    waits = models.BooleanField(default=False)
    #: The newest run of its workflow's same cycle that was not over when it came.
    waits_for = models.ForeignKey(
        "self", models.RESTRICT, null=True, related_name="followers", db_index=False
    )
    #: Names of the hooks that are told when it has ended (services/endings.py).
    on_end = ArrayField(models.CharField(max_length=64), default=list)
    #: Names of the hooks that are told of its failures, set at launch.
    on_failure = ArrayField(models.CharField(max_length=64), default=list)
    #: Nodes at once; None: no limit.
    parallelism = models.PositiveSmallIntegerField(null=True)
    timeout_seconds = models.PositiveIntegerField(null=True)
    #: Parameters given at launch; they win over all other variables.
    parameters = models.JSONField(default=dict)
    #: The workspace's variables as they were at launch; its workflow's stand in the version.
    variables = models.JSONField(default=dict)
    #: IANA name of the zone that its time variables are made in.
    zone = models.CharField(max_length=64, default="UTC")
    #: Chosen for every node at launch; None where each keeps its own.
    queue = models.ForeignKey(
        ResourceQueue, models.SET_NULL, null=True, related_name="+", db_index=False
    )
    #: Chosen for every node at launch; None where each keeps its own.
    priority = models.PositiveSmallIntegerField(null=True)
    remarks = models.TextField(blank=True)
    rerun_of = models.ForeignKey("self", models.SET_NULL, null=True, related_name="reruns")

    total = models.PositiveIntegerField(default=0)
    active = models.PositiveIntegerField(default=0)
    open = models.PositiveIntegerField(default=0)
    succeeded = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    stopped = models.PositiveIntegerField(default=0)
    cancelled = models.PositiveIntegerField(default=0)
    #: Grows with every change of the run or its nodes; the event id of its stream.
    revision = models.PositiveBigIntegerField(default=1)

    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    #: When it was over and a rerun or a set-to-success opened it again: its timeout and its
    #: failures count from then on.
    reopened_at = models.DateTimeField(null=True)

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=_iff(Q(workflow=None), Q(job__isnull=False)),
                name="run_of_workflow_or_job",
            ),
            models.CheckConstraint(
                condition=Q(workflow=None) | Q(version__isnull=False),
                name="run_has_version",
            ),
            models.CheckConstraint(
                condition=_iff(
                    Q(state__in=["succeeded", "failed", "stopped"]), Q(ended_at__isnull=False)
                ),
                name="run_ended_iff_final",
            ),
            models.CheckConstraint(
                condition=Q(parallelism=None) | Q(parallelism__gt=0),
                name="run_parallelism_positive",
            ),
            models.CheckConstraint(
                condition=Q(waits=False)
                | Q(ended_at=None) & (Q(lane__isnull=False) | Q(waits_for__isnull=False)),
                name="run_waits_for_something",
            ),
            models.CheckConstraint(
                condition=Q(waits_for=None) | Q(waits=True),
                name="run_waits_while_it_waits_for",
            ),
        ]
        indexes = [
            # The lists, newest first: of a workspace, of a workflow, of a job.
            models.Index(fields=["workspace", "-id"], name="run_by_workspace"),
            models.Index(fields=["workflow", "-id"], name="run_by_workflow"),
            models.Index(fields=["job", "-id"], name="run_by_job", condition=Q(job__isnull=False)),
            # How do these cycles of a workflow stand?
            models.Index(
                fields=["workflow", "cycle"],
                name="run_by_cycle",
                condition=Q(workflow__isnull=False),
            ),
            # Their filters. Without these a state or trigger that is rare reads every run.
            models.Index(fields=["workspace", "state", "-id"], name="run_by_state"),
            models.Index(fields=["workspace", "trigger", "-id"], name="run_by_trigger"),
            # The sweep: what is not over?
            models.Index(
                fields=["id"],
                name="run_not_over",
                condition=Q(state__in=["pending", "running"]),
            ),
            # Overlap, same cycle and holds: what of a workflow is not over?
            models.Index(
                fields=["workflow", "cycle"],
                name="run_of_workflow_not_over",
                condition=Q(workflow__isnull=False, state__in=["pending", "running"]),
            ),
            # A run's end: who waits for it?
            models.Index(
                fields=["waits_for"],
                name="run_waits_for",
                condition=Q(waits_for__isnull=False),
            ),
            # A lane: who is next in line, and how many hold a place?
            models.Index(fields=["lane", "id"], name="run_line", condition=Q(waits=True)),
            models.Index(
                fields=["lane"],
                name="run_in_lane",
                condition=Q(lane__isnull=False, state__in=["pending", "running"], waits=False),
            ),
            # Has the workflow recovered, and when did it last succeed?
            models.Index(
                fields=["workflow", "ended_at"],
                name="run_succeeded",
                condition=Q(state="succeeded", workflow__isnull=False),
            ),
            # Retention: what has been over for long?
            models.Index(
                fields=["ended_at"], name="run_by_end", condition=Q(ended_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"run {self.pk} of {self.name}"


#: Flows of workflows, jobs and backfills meet in one queue. A workflow's is its id, a job's its
#: negative id, a backfill's its id above this.
BACKFILL_FLOWS = 2**40


class Backfill(models.Model):
    """Past cycles of a workflow to be run, once each: one thing to watch, pause and cancel.

    All that decides what is run is fixed as it is made: the list of cycles, the version, the
    version of each node's job. Its runs come bit by bit (services/feeding.py), through its lane.
    """

    workspace = models.ForeignKey(
        Workspace, models.CASCADE, related_name="backfills", db_index=False
    )
    workflow = models.ForeignKey(Workflow, models.CASCADE, related_name="backfills", db_index=False)
    version = models.ForeignKey(WorkflowVersion, models.PROTECT, related_name="backfills")
    #: Name of a node to the id of its job's version.
    job_versions = models.JSONField()
    #: Whose limit is `at_once`, and 0 while none of its runs may start.
    lane = models.OneToOneField(Lane, models.PROTECT, related_name="backfill")
    order = models.CharField(max_length=10, choices=[(o.value, o.value) for o in Order])
    at_once = models.PositiveSmallIntegerField(default=1)
    which = models.CharField(max_length=10, choices=[(w.value, w.value) for w in Which])
    #: The one node that is run; "": all of them.
    node = models.CharField(max_length=64, default="", blank=True)
    #: With `node`: what is below it too.
    downstream = models.BooleanField(default=False)
    parameters = models.JSONField(default=dict)
    #: Chosen for every node; None where each keeps its own.
    queue = models.ForeignKey(ResourceQueue, models.PROTECT, null=True, related_name="+")
    remarks = models.TextField(blank=True)
    #: Who is told of its failures; none: whom the workflow tells.
    addresses = ArrayField(models.CharField(max_length=254), default=list, blank=True)
    #: It pauses after so many failed cycles; None: it goes on.
    stop_after = models.PositiveIntegerField(null=True)
    #: How many cycles it has.
    total = models.PositiveIntegerField()

    paused_at = models.DateTimeField(null=True)
    #: A person; None: the engine, see `why`.
    paused_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    #: Why the engine paused it, for people.
    why = models.TextField(default="", blank=True)
    #: Failures before this do not count for `stop_after`.
    resumed_at = models.DateTimeField(null=True)
    cancelled_at = models.DateTimeField(null=True)
    cancelled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    #: What runs is stopped too, as it is cancelled.
    stop_running = models.BooleanField(default=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now())
    #: When none of its runs was under way and none was to come. A rerun in place does not change
    #: this: what its cycles are at, their runs say.
    ended_at = models.DateTimeField(null=True)

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(at_once__gte=1, at_once__lte=MOST_AT_ONCE),
                name="backfill_at_once_in_range",
            ),
            models.CheckConstraint(
                condition=Q(stop_after=None) | Q(stop_after__gt=0),
                name="backfill_stop_after_positive",
            ),
            models.CheckConstraint(
                condition=Q(paused_at=None) | Q(cancelled_at=None, ended_at=None),
                name="backfill_paused_is_not_over",
            ),
        ]
        indexes = [
            # The lists, newest first: of a workspace, of a workflow.
            models.Index(fields=["workspace", "-id"], name="backfill_by_workspace"),
            models.Index(fields=["workflow", "-id"], name="backfill_by_workflow"),
            # The tick: what is to be fed?
            models.Index(fields=["id"], name="backfill_not_over", condition=Q(ended_at=None)),
            # Whose end is news?
            models.Index(
                fields=["ended_at"], name="backfill_by_end", condition=Q(ended_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"backfill {self.pk} of {self.workflow}"

    @property
    def acts(self) -> list[Act]:
        """What a person may do to it now."""
        return acts(
            over=self.ended_at is not None,
            paused=self.paused_at is not None,
            cancelled=self.cancelled_at is not None,
            stop_running=self.stop_running,
        )

    @property
    def flow(self) -> int:
        """What takes turns in a queue: this backfill as a whole, whatever its number of runs."""
        return BACKFILL_FLOWS + self.pk


class BackfillCycle(models.Model):
    """One cycle of a backfill, as its preview showed it, and the run that it got."""

    # The constraint's index is that of the backfill.
    backfill = models.ForeignKey(Backfill, models.CASCADE, related_name="cycles", db_index=False)
    cycle = models.DateTimeField()
    #: Its place in the order in which they start, from 0.
    position = models.PositiveIntegerField()
    #: None before it was launched, and once its run is forgotten.
    run = models.OneToOneField(Run, models.SET_NULL, null=True, related_name="backfill_cycle")
    launched_at = models.DateTimeField(null=True)
    #: How its run ended, if that is forgotten.
    ended_as = models.CharField(
        max_length=10,
        choices=[(s.value, s.value) for s in RunState],
        default="",
        blank=True,
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["backfill", "cycle"], name="backfill_cycle_once"),
            models.UniqueConstraint(fields=["backfill", "position"], name="backfill_place_once"),
            models.CheckConstraint(
                condition=Q(run=None) | Q(launched_at__isnull=False),
                name="backfill_cycle_with_run_was_launched",
            ),
        ]
        indexes = [
            # Feeding: which cycles are next?
            models.Index(
                fields=["backfill", "position"],
                name="backfill_cycle_to_come",
                condition=Q(launched_at=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.cycle} of backfill {self.backfill_id}"


class BackfillEvent(models.Model):
    """What happened to a backfill, when, and by whom. Only ever added."""

    backfill = models.ForeignKey(Backfill, models.CASCADE, related_name="events")
    #: A person; None: the engine.
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    note = models.TextField()
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.note


class NodeRun(models.Model):
    """One node of one run: where it stands, and who is working on it.

    `flow`, `queue`, `priority` and `demand` are copies, so that a claim reads one table. Ids
    follow the graph's order within a run: a successor's is greater than its upstreams'.
    """

    # Each index costs at every change of state (none of them is HOT), so the foreign keys
    # have none of their own: the unique key and the partial indexes below serve them.
    run = models.ForeignKey(Run, models.CASCADE, related_name="nodes", db_index=False)
    key = models.CharField(max_length=64)
    job_version = models.ForeignKey(JobVersion, models.PROTECT, related_name="+", db_index=False)
    queue = models.ForeignKey(ResourceQueue, models.PROTECT, related_name="+", db_index=False)
    flow = models.BigIntegerField()
    #: What it asks of its queue while it runs, in thousandths of a CU.
    demand = models.PositiveIntegerField()
    priority = models.SmallIntegerField(default=Priority.MEDIUM.value)
    #: Priority as raised by waiting.
    level = models.SmallIntegerField(default=Priority.MEDIUM.value)
    #: Place in the queue among flows; stamped when it becomes queued.
    turn = models.BigIntegerField(default=0)

    state = models.CharField(
        max_length=10,
        choices=[(s.value, s.value) for s in NodeState],
        default=NodeState.PENDING,
    )
    #: Set by hand to success: by whom and why stands in its event.
    forced = models.BooleanField(default=False)
    #: The node run of an earlier run whose success this one stands for; it never ran itself.
    kept_from = models.ForeignKey(
        "self", models.SET_NULL, null=True, related_name="+", db_constraint=False, db_index=False
    )
    #: Upstreams that have not succeeded yet, and one more for a node that is `outside`. A
    #: pending node with 0 lacks nothing but leave.
    need = models.PositiveIntegerField(default=0)
    #: Ids of the node runs that wait for this one.
    down = ArrayField(models.BigIntegerField(), default=list)
    #: Left out by the last rerun: it does not start, and what runs again does not wait for it.
    outside = models.BooleanField(default=False)
    #: Asked of the running attempt: "" nothing, else the state that it shall end in.
    stop = models.CharField(max_length=10, default="", blank=True)

    #: Fencing token: grows with every start and never shrinks.
    attempt = models.PositiveIntegerField(default=0)
    #: Failures counted against retries. Apart from `attempt`, because a restarted worker
    #: starts a node again without the node having failed.
    failures = models.PositiveIntegerField(default=0)
    #: Attempts lost with their worker or host; they have a small budget of their own.
    losses = models.PositiveIntegerField(default=0)
    retries = models.PositiveSmallIntegerField(default=0)
    retry_interval_seconds = models.PositiveIntegerField(default=60)
    retry_backoff = models.FloatField(default=1.0)
    retry_max_interval_seconds = models.PositiveIntegerField(default=3600)
    final_exit_codes = ArrayField(models.PositiveSmallIntegerField(), default=list)
    #: Longest time in `queued` at a stretch; None: no limit.
    queue_timeout_seconds = models.PositiveIntegerField(null=True)
    #: Of one attempt.
    timeout_seconds = models.PositiveIntegerField(null=True)

    worker = models.CharField(max_length=100, default="", blank=True)
    #: Request id of the claim: a claim whose reply was lost is found by it.
    claim_request = models.UUIDField(null=True)
    lease_until = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)
    queued_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    exit_code = models.IntegerField(null=True)
    #: Why it stands where it stands, for people: "timed out after 60 s", "worker lost".
    reason = models.TextField(default="", blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "key"], name="node_run_once"),
            models.CheckConstraint(
                condition=_iff(Q(state="running"), Q(lease_until__isnull=False)),
                name="node_run_leased_iff_running",
            ),
            models.CheckConstraint(
                condition=_iff(Q(state="retrying"), Q(retry_at__isnull=False)),
                name="node_run_retry_at_iff_retrying",
            ),
            models.CheckConstraint(
                condition=~Q(state="queued") | Q(need=0),
                name="node_run_queued_lacks_nothing",
            ),
        ]
        indexes = [
            # Claim: who is next in this queue? The order must equal the statement's to the
            # last column, else each claim sorts the whole backlog.
            models.Index(
                fields=["queue", "-level", "turn", "queued_at"],
                name="node_run_line",
                condition=Q(state="queued"),
            ),
            # Stamp: what is this flow's last turn?
            models.Index(
                fields=["queue", "flow", "level", "turn"],
                name="node_run_turns",
                condition=Q(state="queued"),
            ),
            # Renewal and sweep: what runs, where? None on lease_until, so that renewal stays HOT.
            models.Index(fields=["worker"], name="node_run_running", condition=Q(state="running")),
            # The tick: whose pause is over?
            models.Index(
                fields=["retry_at"],
                name="node_run_retries",
                condition=Q(state="retrying"),
            ),
            # The tick: who has waited too long in its queue?
            models.Index(
                fields=["queued_at"],
                name="node_run_waits_with_a_limit",
                condition=Q(state="queued", queue_timeout_seconds__isnull=False),
            ),
            # A limited or paused run: which nodes are held back?
            models.Index(
                fields=["run"],
                name="node_run_held",
                condition=Q(state="pending", need=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key} of run {self.run_id}"

    @property
    def priority_word(self) -> str:
        return Priority(self.priority).word

    @property
    def retry_plan(self) -> str:
        """What follows when it fails, in words."""
        return in_words(
            RetryPolicy(
                self.retries,
                self.retry_interval_seconds,
                self.retry_backoff,
                self.retry_max_interval_seconds,
                self.final_exit_codes,
            )
        )


class Attempt(models.Model):
    """One start of a node run: what came of it, and where its log ends."""

    node_run = models.ForeignKey(NodeRun, models.CASCADE, related_name="attempts", db_index=False)
    number = models.PositiveIntegerField()
    state = models.CharField(
        max_length=12,
        choices=[(s.value, s.value) for s in AttemptState],
        default=AttemptState.RUNNING,
    )
    worker = models.CharField(max_length=100)
    started_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    exit_code = models.IntegerField(null=True)
    reason = models.TextField(default="", blank=True)
    #: The most telling line of a failed log.
    error_line = models.TextField(default="", blank=True)
    log_bytes = models.PositiveBigIntegerField(default=0)
    log_lines = models.PositiveBigIntegerField(default=0)
    #: Its last lines, at most 4 KiB.
    log_tail = models.TextField(default="", blank=True)
    #: What it left in $RUNYARD_OUTPUT, key to text; None: nothing. Without the job's secrets.
    values = models.JSONField(null=True)
    #: Spark: saved as soon as they appear in the log.
    application_id = models.CharField(max_length=100, default="", blank=True)
    ui_url = models.CharField(max_length=255, default="", blank=True)
    #: Request id of the finish and what it was given next: a repeat gets the same answer.
    finish_request = models.UUIDField(null=True)
    next_node_run = models.BigIntegerField(null=True)
    next_attempt = models.PositiveIntegerField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["node_run", "number"], name="attempt_once"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of node run {self.node_run_id}"


class RunEvent(models.Model):
    """What happened to a run or one of its nodes, when, and by whom. Only ever added.

    Written in the transaction of the change. No reader keeps a cursor over `id`: ids
    commit out of order.
    """

    # No constraints: they would cost two row locks an event on the hot path. Events leave
    # with their run.
    run = models.ForeignKey(
        Run, models.CASCADE, related_name="events", db_constraint=False, db_index=False
    )
    node_run = models.ForeignKey(
        NodeRun,
        models.CASCADE,
        null=True,
        related_name="events",
        db_constraint=False,
        db_index=False,
    )
    attempt = models.PositiveIntegerField(null=True)
    old = models.CharField(max_length=10, default="", blank=True)
    new = models.CharField(max_length=10, default="", blank=True)
    #: A person; None: the engine.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        related_name="+",
        db_index=False,
    )
    note = models.TextField(default="", blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index(fields=["run", "id"], name="event_by_run")]

    def __str__(self) -> str:
        return f"{self.old} → {self.new}"


class RunEnd(models.Model):
    """An end that somebody has yet to be told of; written in the transaction of that end.

    The end of a run that names a hook in `on_end`, or a failure in one that names a hook in
    `on_failure`: the end of a node that has failed for good, or that of a run which failed
    without one. Gone once the hook has returned.
    """

    # No constraint, as for events; it leaves with its run.
    run = models.ForeignKey(
        Run, models.CASCADE, related_name="+", db_constraint=False, db_index=True
    )
    hook = models.CharField(max_length=64)
    #: Calls begun, of which none has returned.
    tries = models.PositiveIntegerField(default=0)
    #: Not before; while a call is under way, when another may be made.
    due_at = models.DateTimeField(db_default=Now())
    #: What the last call raised.
    why = models.TextField(default="", blank=True)

    class Meta:
        indexes = [models.Index(fields=["due_at"], name="run_end_due")]

    def __str__(self) -> str:
        return f"end of run {self.run_id} for {self.hook}"


class Output(models.Model):
    """A file that an attempt left in its output folder: shown on the run page."""

    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="outputs")
    name = models.CharField(max_length=255)
    sha256 = models.CharField(max_length=64)
    size = models.PositiveBigIntegerField()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["attempt", "name"], name="output_once"),
        ]
        indexes = [models.Index(fields=["sha256"], name="output_by_bytes")]

    def __str__(self) -> str:
        return self.name


class Pulse(models.Model):
    """When the engine last looked around. One row, "tick".

    A worker that sees it older than 10 s ticks by itself. After a gap (the database was away)
    no lease expires until `grace_until`, so that live workers can renew first.
    """

    name = models.CharField(max_length=20, primary_key=True)
    at = models.DateTimeField()
    grace_until = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name


class Worker(models.Model):
    """A worker that shows life. A hint for people: leases alone say who runs what."""

    name = models.CharField(max_length=100, primary_key=True)
    host = models.CharField(max_length=255)
    slots = models.PositiveIntegerField()
    #: The resource queues that it serves, as workspace/queue, by commas; "": every one.
    queues = models.TextField(default="", blank=True)
    #: Why jobs run there as the worker's own user; "" where they have users of their own.
    why_trusted = models.TextField(default="", blank=True)
    seen_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name

    @property
    def names(self) -> tuple[str, ...]:
        return read_names(self.queues)

    def serves(self, queue: ResourceQueue) -> bool:
        return serves(self.names, f"{queue.workspace.name}/{queue.name}")


class SchedulePoint(models.Model):
    """A point at which a workflow was due: the run that it got, or why it got none."""

    class Reason(models.TextChoices):
        NONE = ""
        OVERLAP = "overlap"  # an earlier run was not over, and the overlap is *skip*
        MISSED = "missed"  # nothing could start then, and the rule of missed cycles left it out
        FAULT = "fault"  # it could not be launched: see the note

    # The constraint's index is that of the workflow.
    workflow = models.ForeignKey(
        Workflow, models.CASCADE, related_name="schedule_points", db_index=False
    )
    cycle = models.DateTimeField()
    run = models.OneToOneField(Run, models.CASCADE, null=True, related_name="schedule_point")
    reason = models.CharField(max_length=10, choices=Reason.choices, default="", blank=True)
    note = models.TextField(default="", blank=True)
    made_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workflow", "cycle"], name="schedule_point_once"),
            models.CheckConstraint(
                condition=_iff(Q(run=None), ~Q(reason="")), name="schedule_point_has_run_or_reason"
            ),
        ]
        indexes = [
            # What to forget: points without a run, the oldest first.
            models.Index("made_at", name="schedule_point_old", condition=Q(run=None)),
        ]

    def __str__(self) -> str:
        return f"{self.cycle} of workflow {self.workflow_id}"
