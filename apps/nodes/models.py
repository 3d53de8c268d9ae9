"""What a node runs: jobs and their versions, the files they name, the Pythons they ask for."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import Q

from apps.workspaces.models import InWorkspaceQuerySet, ResourceQueue, Workspace


class Job(models.Model):
    """A piece of work that can be edited, published and used as a node.

    `draft` is the spec that is being edited (its shape: docs/kinds.md); runs in production
    take `published`, which no edit changes. Nodes keep a job by id, so that moving or
    renaming it breaks nothing.
    """

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="jobs")
    #: Folder and name, such as `etl/clean_flights`.
    path = models.CharField(max_length=255)
    kind = models.CharField(max_length=32)
    draft = models.JSONField(default=dict)
    #: Grows with every saved draft; a save must name the one it started from.
    revision = models.PositiveIntegerField(default=1)
    published = models.ForeignKey(
        "JobVersion", models.SET_NULL, null=True, blank=True, related_name="+"
    )
    #: Of the draft: where it runs by itself, and the default for nodes that use it.
    queue = models.ForeignKey(
        ResourceQueue, models.PROTECT, null=True, blank=True, related_name="jobs"
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        ordering = ["path"]
        constraints = [
            models.UniqueConstraint(fields=["workspace", "path"], name="job_path_once"),
            models.CheckConstraint(condition=~Q(path=""), name="job_has_path"),
        ]

    def __str__(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


class JobVersion(models.Model):
    """A spec as it was published, or as an unpublished draft was run once. Never changes.

    `number` is None for a run of a draft: it belongs to that run and to no list.
    """

    job = models.ForeignKey(Job, models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(null=True)
    kind = models.CharField(max_length=32)
    spec = models.JSONField()
    #: Workspace files that the spec names, fixed at publish: path -> sha256.
    files = models.JSONField(default=dict)
    #: The job's queue when it was frozen: where it runs by itself, and its nodes' default.
    queue = models.ForeignKey(
        ResourceQueue, models.PROTECT, null=True, blank=True, related_name="job_versions"
    )
    #: SHA-256 of the canonical form of kind, spec, files and queue, hex.
    digest = models.CharField(max_length=64)
    remarks = models.TextField(blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="job_version_number_once"),
        ]

    def __str__(self) -> str:
        return f"{self.job} v{self.number}" if self.number else f"{self.job} (draft)"


class File(models.Model):
    """A file of a workspace: a script, a jar, data. Its bytes lie under their sha256."""

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="files")
    path = models.CharField(max_length=255)
    sha256 = models.CharField(max_length=64)
    size = models.PositiveBigIntegerField()
    uploaded_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    uploaded_at = models.DateTimeField(auto_now=True)

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        ordering = ["path"]
        constraints = [
            models.UniqueConstraint(fields=["workspace", "path"], name="file_path_once"),
        ]
        indexes = [models.Index(fields=["sha256"], name="file_by_bytes")]

    def __str__(self) -> str:
        return self.path


class PythonLock(models.Model):
    """Exact versions and hashes for a list of requirements, as the first worker resolved them.

    Every later build of the same list in the same workspace, on any worker, installs just these.
    """

    #: SHA-256 over workspace, requirements and Python version, hex.
    digest = models.CharField(max_length=64, primary_key=True)
    lock = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.digest
