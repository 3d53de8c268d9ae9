"""Workflows: a draft in rows, and the versions that were frozen from it."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.engine.priority import Priority
from apps.engine.retry import BACKOFF_LEAST, BACKOFF_MOST
from apps.engine.states import Overlap, Severity, Strategy
from apps.nodes.models import Job
from apps.workspaces.models import InWorkspaceQuerySet, ResourceQueue, Workspace

#: What a workflow says for all its nodes, and each node may say otherwise: columns of both.
POLICIES = (
    "retries",
    "retry_interval_seconds",
    "retry_backoff",
    "retry_max_interval_seconds",
    "final_exit_codes",
    "queue_timeout_seconds",
    "priority",
)

_BACKOFF = Q(retry_backoff__gte=BACKOFF_LEAST, retry_backoff__lte=BACKOFF_MOST)
_PRIORITY = Q(priority__gte=Priority.LOWEST.value, priority__lte=Priority.HIGHEST.value)


class Workflow(models.Model):
    """A graph of jobs under edit. Production runs take `published`, which no edit changes.

    The settings here and the nodes and edges below are the draft; `revision` grows with
    every change to any of them, and a save must name the one it started from.
    """

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="workflows")
    name = models.CharField(max_length=128)
    description = models.TextField(blank=True)
    #: Default of its nodes.
    queue = models.ForeignKey(
        ResourceQueue, models.PROTECT, null=True, blank=True, related_name="workflows"
    )
    retries = models.PositiveSmallIntegerField(default=0)
    retry_interval_seconds = models.PositiveIntegerField(default=60)
    #: Each pause this many times as long as the one before; 1 keeps it even.
    retry_backoff = models.FloatField(default=1.0)
    retry_max_interval_seconds = models.PositiveIntegerField(default=3600)
    #: Exit codes after which no retry follows.
    final_exit_codes = ArrayField(models.PositiveSmallIntegerField(), default=list, blank=True)
    #: Longest wait of a node in its queue; None: no limit.
    queue_timeout_seconds = models.PositiveIntegerField(null=True, blank=True)
    priority = models.PositiveSmallIntegerField(default=Priority.MEDIUM.value)
    #: Longest time of a whole run; None: no limit.
    timeout_seconds = models.PositiveIntegerField(null=True, blank=True)
    #: Nodes of one run at once; None: no limit.
    parallelism = models.PositiveSmallIntegerField(null=True, blank=True)
    strategy = models.CharField(
        max_length=10,
        choices=[(s.value, s.value) for s in Strategy],
        default=Strategy.CONTINUE,
    )
    #: Of its scheduled runs.
    overlap = models.CharField(
        max_length=10,
        choices=[(o.value, o.value) for o in Overlap],
        default=Overlap.PARALLEL,
    )
    #: Scheduled runs under way at once where they overlap in parallel.
    overlap_limit = models.PositiveSmallIntegerField(default=16)
    #: IANA name; "": the workspace's.
    zone = models.CharField(max_length=64, default="", blank=True)
    #: When it is due, as engine.timetable.Timetable writes it; None: by hand alone.
    schedule = models.JSONField(null=True, blank=True)
    #: Days from a cycle's local date back to the date of its data.
    data_offset = models.PositiveSmallIntegerField(default=1)
    #: Name to text: variables of all its nodes.
    variables = models.JSONField(default=dict, blank=True)
    #: Key to value: by them holds find it. They count at once and are in no version.
    tags = models.JSONField(default=dict, blank=True)
    #: Who looks after it, what to do when it fails and how much that matters: they are told with
    #: a failure, count at once and are in no version.
    owner = models.CharField(max_length=100, default="", blank=True)
    runbook = models.CharField(max_length=500, default="", blank=True)
    severity = models.CharField(
        max_length=10,
        choices=[(s.value, s.value) for s in Severity],
        default=Severity.NORMAL,
    )
    revision = models.PositiveIntegerField(default=1)
    published = models.ForeignKey(
        "WorkflowVersion", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    #: Set: in the trash. Its runs stay readable and its name is free again.
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "name"],
                name="workflow_name_once",
                condition=Q(deleted_at=None),
            ),
            models.CheckConstraint(condition=~Q(name=""), name="workflow_has_name"),
            models.CheckConstraint(
                condition=Q(parallelism=None) | Q(parallelism__gt=0),
                name="workflow_parallelism_positive",
            ),
            models.CheckConstraint(
                condition=Q(overlap_limit__gt=0), name="workflow_overlap_limit_positive"
            ),
            models.CheckConstraint(condition=_BACKOFF, name="workflow_backoff_in_range"),
            models.CheckConstraint(condition=_PRIORITY, name="workflow_priority_in_range"),
        ]

    def __str__(self) -> str:
        return self.name


class DraftNode(models.Model):
    """A node of a draft. What is None follows the workflow, or the job; a 0 that is set stays."""

    workflow = models.ForeignKey(Workflow, models.CASCADE, related_name="nodes")
    name = models.CharField(max_length=64)
    job = models.ForeignKey(Job, models.PROTECT, related_name="nodes")
    #: A published version that this node stays with; None takes the newest at each launch.
    job_version_number = models.PositiveIntegerField(null=True, blank=True)
    #: Once chosen here it sticks, also when the workflow's queue changes.
    queue = models.ForeignKey(
        ResourceQueue, models.PROTECT, null=True, blank=True, related_name="nodes"
    )
    retries = models.PositiveSmallIntegerField(null=True, blank=True)
    retry_interval_seconds = models.PositiveIntegerField(null=True, blank=True)
    retry_backoff = models.FloatField(null=True, blank=True)
    retry_max_interval_seconds = models.PositiveIntegerField(null=True, blank=True)
    final_exit_codes = ArrayField(models.PositiveSmallIntegerField(), null=True, blank=True)
    queue_timeout_seconds = models.PositiveIntegerField(null=True, blank=True)
    priority = models.PositiveSmallIntegerField(null=True, blank=True)
    #: Of one attempt.
    timeout_seconds = models.PositiveIntegerField(null=True, blank=True)
    #: Name to text; they win over the workflow's.
    variables = models.JSONField(default=dict, blank=True)
    #: Place on the canvas in its own units; None until it was laid out or dragged.
    x = models.FloatField(null=True, blank=True)
    y = models.FloatField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["workflow", "name"], name="draft_node_name_once"),
            models.CheckConstraint(
                condition=Q(retry_backoff=None) | _BACKOFF, name="draft_node_backoff_in_range"
            ),
            models.CheckConstraint(
                condition=Q(priority=None) | _PRIORITY, name="draft_node_priority_in_range"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class DraftEdge(models.Model):
    """`downstream` starts when `upstream` has succeeded."""

    workflow = models.ForeignKey(Workflow, models.CASCADE, related_name="edges")
    upstream = models.ForeignKey(DraftNode, models.CASCADE, related_name="out_edges")
    downstream = models.ForeignKey(DraftNode, models.CASCADE, related_name="in_edges")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["upstream", "downstream"], name="draft_edge_once"),
            models.CheckConstraint(
                condition=~Q(upstream=F("downstream")), name="draft_edge_not_to_itself"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.upstream} → {self.downstream}"


class WorkflowVersion(models.Model):
    """A published graph with its settings. Never changes.

    `graph`: {"settings": {...}, "nodes": [{"name", "job", "job_version_number", "queue",
    "timeout_seconds", *POLICIES, "x", "y"}], "edges": [[up, down]]}; jobs and queues by id, None
    where a node follows. `variables` stand only where there are any. Made by
    `publishing.freeze`; older ones lack what came later, so read it through `publishing.whole`.
    `number` is None for a debug run of a draft.
    """

    workflow = models.ForeignKey(Workflow, models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(null=True)
    graph = models.JSONField()
    #: SHA-256 of the canonical form of what runs (positions are left out), hex.
    digest = models.CharField(max_length=64)
    remarks = models.TextField(blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    #: On the database's clock: from then on its schedule counts.
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workflow", "number"], name="workflow_version_number_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.workflow} v{self.number}" if self.number else f"{self.workflow} (draft)"


class Schedule(models.Model):
    """Whether a workflow is started by its schedule, and up to where that is done.

    A workflow without a row was never turned on. Written under the workflow's row lock; `next_at`
    may be brought forward by anyone, to be looked at now.
    """

    workflow = models.OneToOneField(
        Workflow, models.CASCADE, primary_key=True, related_name="scheduling"
    )
    on = models.BooleanField(default=False)
    #: Every point up to here, it included, has its row.
    done_until = models.DateTimeField()
    #: When to look again; None: off, or no point follows.
    next_at = models.DateTimeField(null=True, blank=True)
    #: The last look found a hold.
    held = models.BooleanField(default=False)
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            # The tick's question: what is due?
            models.Index("next_at", name="schedule_due", condition=Q(on=True)),
        ]

    def __str__(self) -> str:
        return f"schedule of {self.workflow_id}: {'on' if self.on else 'off'}"
