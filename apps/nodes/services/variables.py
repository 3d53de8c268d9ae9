"""What is wrong with the variables in a version of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from apps.nodes.kinds.base import Fault, Given
from apps.nodes.kinds.registry import kind
from apps.nodes.models import Job, JobVersion
from apps.nodes.services.files import open_blob
from apps.workspaces.models import Workspace
from apps.workspaces.variables import asked_before_deletion, variables_of

#: Of one file that variables are put into; a longer one is judged when it is run.
_READ_BYTES = 4 << 20


def variable_faults(
    version: JobVersion, given: Given, upstream: Callable[[], Iterable[str]] = tuple
) -> list[Fault]:
    """What would keep an attempt from its values: unknown names, each with its field and line.

    `upstream` tells, when it matters, which nodes' values it may name.
    """
    what = kind(version.kind)
    files = {
        path: _text_of(version.files[path])
        for path in sorted(what.files_with_variables(version.spec))
        if path in version.files
    }
    texts = list(what.texts_with_variables(version.spec, given, files))
    return list(what.variable_faults(version.spec, given, texts, upstream))


def lacks_without(
    name: str,
    version: JobVersion,
    given: Given,
    upstream: Callable[[], Iterable[str]] = tuple,
) -> bool:
    """Whether a version that is fine would lack a variable of its workspace."""
    if name not in given.workspace or variable_faults(version, given, upstream):
        return False
    rest = {each: text for each, text in given.workspace.items() if each != name}
    return bool(variable_faults(version, replace(given, workspace=rest), upstream))


@asked_before_deletion
def _jobs_that_would_fail(workspace: Workspace, name: str) -> list[str]:
    rows = Job.objects.filter(workspace=workspace, published__isnull=False).order_by("path")
    given = Given(variables_of(workspace.pk))
    return [
        f"job {job.path!r}"
        for job in rows.select_related("published")
        if job.published is not None and lacks_without(name, job.published, given)
    ]


@lru_cache(maxsize=64)
def _text_of(sha256: str) -> str:
    with open_blob(sha256) as file:
        return str(file.read(_READ_BYTES), "utf-8-sig", errors="replace")
