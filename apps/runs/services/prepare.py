"""What a worker has to know of an attempt before it can start it.

All of it was fixed at launch, so that a worker asks once per run and once per job version:
between two nodes of a chain it asks nothing. A dry run makes its commands of the same functions,
and so shows what would be started.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from django.db import connection

from apps.engine.timevars import Moment, is_taken, upstream_mark
from apps.nodes.kinds.base import CannotStart, Context, Given, Kind
from apps.nodes.kinds.fields import Spec
from apps.nodes.models import JobVersion, PythonLock
from apps.nodes.services.files import open_blob
from apps.runs.services.hot_path import Claim
from apps.runs.services.values import nodes_named
from apps.workflows.clock import moment_of
from apps.workspaces.models import ResourceQueue

_CHUNK = 1 << 20


@dataclass(frozen=True)
class RunFacts:
    workspace_id: int
    workspace: str
    #: Name of the workflow; "" for a job run by itself.
    workflow: str
    #: What its time variables are made of.
    moment: Moment
    #: What every node is given; its own variables by its name.
    given: Given
    of_nodes: Mapping[str, Mapping[str, str]]

    def given_to(self, node: str) -> Given:
        """The variables of one of its nodes, but for the job's."""
        return replace(self.given, node=self.of_nodes.get(node, {}))


@dataclass(frozen=True)
class JobFacts:
    kind: str
    spec: Mapping[str, Any]
    #: Workspace files that the spec names, as they were when it was frozen: path -> sha256.
    files: Mapping[str, str]

    @classmethod
    def of(cls, version: JobVersion) -> JobFacts:
        return cls(version.kind, version.spec, version.files)


@dataclass(frozen=True)
class Prepared:
    run: RunFacts
    job: JobFacts


def prepare(mine: Claim) -> Prepared:
    """What the database says about a claimed attempt."""
    return Prepared(_run_facts(mine.run_id), _job_facts(mine.job_version_id))


@lru_cache(maxsize=1024)
def _run_facts(run_id: int) -> RunFacts:
    # Not by the ORM, which takes a millisecond for it: each run's first node waits for this.
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT r.workspace_id, w.name, r.zone, r.name, r.workflow_id, r.cycle, r.parameters,"
            " r.variables, v.graph -> 'settings',"
            " jsonb_path_query_array(v.graph, '$.nodes[*] ? (exists(@.variables))')"
            " FROM runs_run r JOIN workspaces_workspace w ON w.id = r.workspace_id"
            " LEFT JOIN workflows_workflowversion v ON v.id = r.version_id"
            " WHERE r.id = %s",
            [run_id],
        )
        row = cursor.fetchone()
    workspace_id, workspace, zone, name, workflow, cycle, *rest = row
    of_run, of_workspace, settings, nodes = (json.loads(each or "null") for each in rest)
    return run_facts(
        workspace_id,
        workspace,
        name if workflow else "",
        cycle=cycle,
        zone=zone,
        settings=settings or {},
        nodes=nodes or (),
        of_workspace=of_workspace,
        of_run=of_run,
    )


def run_facts(
    workspace_id: int,
    workspace: str,
    workflow: str,
    *,
    cycle: datetime,
    zone: str,
    settings: Mapping[str, Any],
    nodes: Sequence[Mapping[str, Any]],
    of_workspace: Mapping[str, str],
    of_run: Mapping[str, str],
) -> RunFacts:
    """What every node of a run is given. `settings` and `nodes` are those of its version's graph,
    `of_workspace` and `of_run` its variables, as they are written."""
    return RunFacts(
        workspace_id,
        workspace,
        workflow,
        moment_of(cycle, settings, zone),
        Given(workspace=of_workspace, workflow=settings.get("variables", {}), run=of_run),
        {node["name"]: node["variables"] for node in nodes if node.get("variables")},
    )


@lru_cache(maxsize=1024)
def _job_facts(job_version_id: int) -> JobFacts:
    return JobFacts.of(JobVersion.objects.get(pk=job_version_id))


def context_of(
    prepared: Prepared,
    node: str,
    *,
    run: int | None,
    node_run: int | None,
    attempt: int,
    folder: Path,
    data: Path,
    user: str = "runyard",
    known_user: bool = True,
) -> Context:
    """What a kind may know of an attempt in `folder`, but for what only its machine knows: where
    Python and Spark are."""
    facts, job = prepared.run, prepared.job
    return Context(
        workspace=facts.workspace,
        workflow=facts.workflow,
        node=node,
        run=run,
        node_run=node_run,
        attempt=attempt,
        folder=folder,
        data=data,
        files={path: folder / "files" / path for path in job.files},
        given=facts.given_to(node),
        moment=facts.moment,
        user=user,
        known_user=known_user,
    )


#: Gives what the nodes left that some texts name, as `values_of_nodes` does.
ValuesNamed = Callable[[Sequence[str]], Mapping[str, str]]


def with_values(what: Kind, spec: Spec, context: Context, left: ValuesNamed) -> Context:
    """With what other nodes left that the job names; its files lie where the context says.

    Raises CannotStart with all that is wrong with its variables, each with its place.
    """
    files = {
        path: context.files[path].read_text(encoding="utf-8-sig", errors="replace")
        for path in sorted(what.files_with_variables(spec))
    }
    places = list(what.texts_with_variables(spec, context.given, files))
    texts = [text for _, _, text in places]
    if nodes := nodes_named(texts):
        context = replace(context, of_nodes=left(texts))
    marked = {node for node in nodes if upstream_mark(node) in context.of_nodes}
    if faults := list(what.variable_faults(spec, context.given, places, lambda: marked)):
        raise CannotStart("; ".join(map(str, faults)))
    return context


def check_secrets(names: Sequence[str], there: Collection[str]) -> None:
    """Raise CannotStart where a job names a secret that it cannot be given, of those there are."""
    for name in names:
        if is_taken(name):
            raise CannotStart(f"no secret can be given as {name}: the engine sets it")
    for name in names:
        if name not in there:
            raise CannotStart(
                f"the workspace has no secret {name}; set it and rerun, or take it out of the job"
            )


def fetch_file(sha256: str, target: Path) -> None:
    """Copy the bytes of a workspace file to `target`, whose folder exists.

    Raises FileNotFoundError if the storage has lost them, OSError if it gives others.
    """
    hashed = hashlib.sha256()
    with open_blob(sha256) as source, target.open("xb") as copy:
        while chunk := source.read(_CHUNK):
            hashed.update(chunk)
            copy.write(chunk)
    if hashed.hexdigest() != sha256:
        target.unlink()
        raise OSError(f"the storage holds other bytes than {target.name} had; upload it anew")


def spark_master(queue_id: int) -> str:
    """The Spark master of a resource queue, as it is now: a cluster may move."""
    return ResourceQueue.objects.values_list("spark_master", flat=True).get(pk=queue_id)


def python_lock(workspace_id: int, digest: str) -> str | None:
    """The exact versions that a list of requirements was resolved to; None: nobody has yet."""
    kept = PythonLock.objects.filter(pk=_lock_key(workspace_id, digest))
    return kept.values_list("lock", flat=True).first()


def keep_python_lock(workspace_id: int, digest: str, lock: str) -> str:
    """Keep what this worker resolved, and return what counts: the first one's."""
    key = _lock_key(workspace_id, digest)
    PythonLock.objects.bulk_create([PythonLock(digest=key, lock=lock)], ignore_conflicts=True)
    return PythonLock.objects.get(pk=key).lock


def _lock_key(workspace_id: int, digest: str) -> str:
    """Of one workspace: its jobs had a hand in the lock, and must not in another's."""
    return hashlib.sha256(f"{workspace_id}:{digest}".encode()).hexdigest()
