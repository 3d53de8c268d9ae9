"""Holds: on a workspace, on one of its queues, or on a tag of its workflows.

A hold on a workspace or a queue shuts queues (`ResourceQueue.held`), which the hot path reads
where it reads their capacity. A hold on a tag holds runs (`Run.held`), like a pause but apart
from a person's pause of that run.

Which runs are held follows from the open holds and the workflows' tags alone. `settle` brings
one run up to that, whoever asks and how often; holds, releases and changed tags ask for every
open run of the workflows concerned, and the sweep for what a crash left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from django.db import IntegrityError, connection, transaction
from django.db.models import Count, F, Q, QuerySet
from django.db.models.functions import Now

from apps.core.errors import Conflict, NotFound
from apps.engine.states import By, Missed, NodeState, RunState
from apps.runs.doorbell import ring_after_commit
from apps.runs.models import NodeRun, Run
from apps.runs.services.advance import advance
from apps.runs.services.lanes import fill
from apps.runs.services.moves import move_all, tell
from apps.runs.services.scope import lock_nodes
from apps.workflows.models import Schedule, Workflow
from apps.workflows.services.tags import check_tags, read_tag
from apps.workspaces.models import ResourceQueue, User, Workspace, WorkspaceHold
from apps.workspaces.selectors import holds_on_tags

BATCH = 200


def hold(
    workspace: Workspace,
    *,
    queue: ResourceQueue | None = None,
    tag: str = "",
    reason: str = "",
    user: User | None,
) -> WorkspaceHold:
    """Start nothing new in a queue, of the workflows with a tag, or else in the whole workspace.

    `tag` is `key=value`, or `key` for any value. What runs goes on to its end. Once this
    returns nothing starts any more, not even what was being started meanwhile. Call it outside
    of a transaction.

    Raises Invalid for a tag that cannot be one, Conflict if the same is held already.
    """
    key, value = read_tag(tag) if tag else ("", "")
    made = WorkspaceHold(
        workspace=workspace,
        queue=queue,
        tag_key=key,
        tag_value=value,
        reason=reason.strip(),
        created_by=user,
    )
    with transaction.atomic():
        _one_at_a_time(workspace)
        try:
            with transaction.atomic():
                made.save()
        except IntegrityError:
            raise Conflict(f"{made} is held already") from None
        shut = _shut_queues(workspace)
    _let_starts_end(shut)
    _settle_all(_tagged(made), user=user)
    return made


def release(hold: WorkspaceHold, *, missed: Missed = Missed.LATEST, user: User | None) -> None:
    """End a hold; what waits goes on, unless another hold stands on it.

    `missed` says what becomes of the cycles that fell due meanwhile. Call it outside of a
    transaction. Raises Conflict if it was released before.
    """
    with transaction.atomic():
        _one_at_a_time(hold.workspace)
        standing = WorkspaceHold.objects.filter(pk=hold.pk, released_at=None)
        if not standing.update(released_at=Now(), released_by=user, missed=missed):
            raise Conflict(f"the hold on {hold} has been released already")
        _shut_queues(hold.workspace)
        waiting = Schedule.objects.filter(workflow__workspace=hold.workspace, on=True, held=True)
        waiting.update(next_at=Now())
    _settle_all(_tagged(hold), user=user)


def tag_workflow(workflow: Workflow, tags: Mapping[str, str], *, user: User | None) -> None:
    """Give a workflow these tags in place of its own; they count at once, holds included.

    Call it outside of a transaction. Raises Invalid with every fault, NotFound.
    """
    tags = check_tags(tags)
    with transaction.atomic():
        row = Workflow.objects.select_for_update(no_key=True).get(pk=workflow.pk)
        if row.deleted_at is not None:
            raise NotFound(f"workflow {row.name!r} was deleted")
        Workflow.objects.filter(pk=row.pk).update(tags=tags)
    workflow.tags = tags
    _settle_runs(_open_runs(workflow.pk), user=user)


@transaction.atomic
def settle(run_id: int, *, user: User | None = None) -> bool:
    """Hold a run or let it go on, as its workflow's tags and the open holds say now.

    False if it stands as it should, or is over. As with a pause every node run is locked
    before the flag is set, so that no finish that read the flag before can queue a node
    behind it.
    """
    nodes = lock_nodes(run_id)
    run = Run.objects.select_for_update(no_key=True).get(pk=run_id)
    if run.ended_at is not None or run.workflow is None:
        return False
    holds = holds_on_tags(run.workspace_id, run.workflow.tags)
    if run.held == bool(holds):
        return False
    Run.objects.filter(pk=run_id).update(held=bool(holds), revision=F("revision") + 1)
    if holds:
        note = held_note(holds)
        queued = [node for node in nodes if node.state == NodeState.QUEUED]
        move_all(queued, NodeState.PENDING, by=By.ENGINE, user=user, note=note)
        tell(run_id, note, user=user)
    else:
        tell(run_id, "no longer held", user=user)
        advance(run_id)
        if run.lane_id is not None:
            transaction.on_commit(partial(fill, run.lane_id), robust=True)
    return True


def held_note(holds: Iterable[WorkspaceHold]) -> str:
    """What holds a run, for its events."""
    return "; ".join(f"held: {h}" + (f" ({h.reason})" if h.reason else "") for h in holds)


def mend_held() -> list[int]:
    """Runs that are held and should not be, or should and are not; by id, a batch."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT r.id FROM runs_run r JOIN workflows_workflow w ON w.id = r.workflow_id
             WHERE r.state IN ('pending', 'running')
               AND r.held <> EXISTS (
                   SELECT FROM workspaces_workspacehold h
                    WHERE h.workspace_id = r.workspace_id AND h.released_at IS NULL
                      AND w.tags ? h.tag_key AND h.tag_value IN ('', w.tags ->> h.tag_key))
             ORDER BY r.id LIMIT %s
            """,
            [BATCH],
        )
        return [pk for (pk,) in cursor.fetchall()]


def await_launches(workflow_id: int | None) -> None:
    """Let no run of a workflow start before this transaction ends; waits for those that do.

    A launch reads the holds under the same lock. So a hold that has taken it finds every run
    that did not see the hold.
    """
    if workflow_id is not None:
        list(Workflow.objects.select_for_update(no_key=True).filter(pk=workflow_id).values("pk"))


def _one_at_a_time(workspace: Workspace) -> None:
    """Holds, releases and new queues of a workspace come one after the other."""
    Workspace.objects.select_for_update(no_key=True).get(pk=workspace.pk)


def _shut_queues(workspace: Workspace) -> list[int]:
    """Bring every queue's flag up to the holds that stand; ids of those that were shut."""
    standing = WorkspaceHold.objects.filter(workspace=workspace, released_at=None, tag_key="")
    on = set(standing.values_list("queue", flat=True))
    shut: list[int] = []
    opened: list[int] = []
    queues = ResourceQueue.objects.select_for_update(no_key=True).filter(workspace=workspace)
    for queue in queues.order_by("pk"):
        held = None in on or queue.pk in on
        if queue.held != held:
            ResourceQueue.objects.filter(pk=queue.pk).update(held=held)
            (shut if held else opened).append(queue.pk)
    waiting = (
        NodeRun.objects.filter(queue__in=opened, state=NodeState.QUEUED)
        .values("queue")
        .annotate(n=Count("pk"))
        .order_by()
    )
    ring_after_commit({row["queue"]: row["n"] for row in waiting})
    return shut


@transaction.atomic
def _let_starts_end(queue_ids: list[int]) -> None:
    """Wait until whoever read a queue's flag before it was set has committed.

    A claim does so on the queue's row. A finish that hands its capacity on leaves that row
    alone, but holds its own node run's: it reads as running until then.
    """
    running = NodeRun.objects.filter(queue__in=queue_ids, state=NodeState.RUNNING)
    list(running.select_for_update(no_key=True).order_by("pk").values_list("pk"))


def _tagged(hold: WorkspaceHold) -> QuerySet[Workflow]:
    """The workflows that a hold on a tag concerns."""
    if not hold.tag_key:
        return Workflow.objects.none()
    tag = {hold.tag_key: hold.tag_value} if hold.tag_value else None
    mine = Q(tags__contains=tag) if tag else Q(tags__has_key=hold.tag_key)
    return Workflow.objects.filter(mine, workspace=hold.workspace_id)


def _settle_all(workflows: QuerySet[Workflow], *, user: User | None) -> None:
    for pk in workflows.order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            await_launches(pk)
        _settle_runs(_open_runs(pk), user=user)


def _open_runs(workflow_id: int) -> list[int]:
    rows = Run.objects.filter(
        workflow=workflow_id, state__in=[RunState.PENDING, RunState.RUNNING], ended_at=None
    )
    return list(rows.order_by("pk").values_list("pk", flat=True))


def _settle_runs(run_ids: Iterable[int], *, user: User | None) -> None:
    for run_id in run_ids:
        settle(run_id, user=user)
