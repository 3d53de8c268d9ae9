"""Who shares what: workspaces, their members, their resource queues, the tokens for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from django.conf import settings
from django.contrib.auth.models import AbstractUser, AnonymousUser
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.engine.roles import Permission, Role, allows
from apps.engine.states import Missed


class User(AbstractUser):
    """A person. A superuser is the platform's administrator: owner of every workspace."""

    class Meta:
        db_table = "workspaces_user"


class WorkspaceQuerySet(models.QuerySet["Workspace"]):
    def visible_to(self, user: User | AnonymousUser) -> Self:
        if not user.is_active or user.is_anonymous:
            return self.none()
        return self if user.is_superuser else self.filter(members__user=user)


class Workspace(models.Model):
    """Jobs, workflows, queues and people, apart from those of every other workspace."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[
            RegexValidator(
                r"^\w[\w-]{0,63}\Z",
                "use 1 to 64 letters, digits, '-' and '_'; a letter, digit or '_' first",
            )
        ],
    )
    #: IANA name; the default of its workflows' zones.
    zone = models.CharField(max_length=64, default="UTC")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = WorkspaceQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name


class Member(models.Model):
    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="members")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=20, choices=[(r.value, r.value) for r in Role])

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace", "user"], name="member_once_per_workspace"),
            models.CheckConstraint(
                condition=Q(role__in=[r.value for r in Role]), name="member_role_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.workspace}"

    def may(self, permission: Permission) -> bool:
        return allows(Role(self.role), permission)


class InWorkspaceQuerySet(models.QuerySet[Any]):
    """Of a model with a `workspace`: the one way from a user to its rows."""

    def visible_to(self, user: User | AnonymousUser) -> Self:
        if not user.is_active or user.is_anonymous:
            return self.none()
        return self if user.is_superuser else self.filter(workspace__members__user=user)


class ResourceQueue(models.Model):
    """A pool of compute units that nodes wait for.

    Capacity is in thousandths of a CU (1 CU = 1 core + 4 GiB). `used` is written by the hot
    path only, by differences; it may stand above a capacity that was lowered meanwhile.
    """

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="queues")
    name = models.CharField(
        max_length=64,
        validators=[
            RegexValidator(r"^\w[\w-]{0,63}\Z", "use 1 to 64 letters, digits, '-' and '_'")
        ],
    )
    description = models.CharField(max_length=200, blank=True)
    capacity = models.PositiveIntegerField()
    used = models.IntegerField(default=0)
    #: Nothing new starts: a hold stands on it or on its workspace. The hot path reads it.
    held = models.BooleanField(default=False)
    #: Which environments it is for. Production runs need a production queue, debug runs a
    #: development one; a queue may be both.
    development = models.BooleanField(default=False)
    production = models.BooleanField(default=False)
    #: Spark master: "local" (as many cores as the job's driver has), spark://…, yarn, k8s://…
    spark_master = models.CharField(max_length=200, default="local")

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["workspace", "name"], name="queue_once_per_workspace"),
            models.CheckConstraint(condition=Q(used__gte=0), name="queue_used_not_negative"),
            models.CheckConstraint(condition=Q(capacity__gt=0), name="queue_has_capacity"),
            models.CheckConstraint(
                condition=Q(development=True) | Q(production=True),
                name="queue_has_environment",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def free(self) -> int:
        return max(self.capacity - self.used, 0)


class WorkspaceHold(models.Model):
    """A person's word that nothing new starts: in a workspace, in one queue, or under a tag.

    What runs goes on, and every switch stays as it is. The row remains when the hold is
    released: who held what, when and why, and what was to become of the missed cycles.
    """

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="holds")
    #: Neither queue nor tag: the whole workspace.
    queue = models.ForeignKey(
        ResourceQueue, models.CASCADE, null=True, blank=True, related_name="holds"
    )
    #: Of workflows; with an empty value, every workflow that has the key.
    tag_key = models.CharField(max_length=64, default="", blank=True)
    tag_value = models.CharField(max_length=64, default="", blank=True)
    reason = models.CharField(max_length=200, default="", blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now())
    released_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    released_at = models.DateTimeField(null=True)
    #: For the scheduler; "" while it stands.
    missed = models.CharField(
        max_length=10, choices=[(m.value, m.value) for m in Missed], default="", blank=True
    )

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "queue", "tag_key", "tag_value"],
                condition=Q(released_at=None),
                nulls_distinct=False,
                name="hold_stands_once",
            ),
            models.CheckConstraint(
                condition=Q(queue=None) | Q(tag_key=""), name="hold_on_queue_or_tag"
            ),
            models.CheckConstraint(
                condition=Q(tag_value="") | ~Q(tag_key=""), name="hold_tag_has_key"
            ),
            models.CheckConstraint(
                condition=Q(released_at=None, missed="")
                | (Q(released_at__isnull=False) & ~Q(missed="")),
                name="hold_says_missed_once_released",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.what} {self.name}"

    def is_on_one_of(self, tags: Mapping[str, str]) -> bool:
        """Whether it holds the workflows with one of these tags."""
        return self.tag_key in tags and self.tag_value in ("", tags[self.tag_key])

    @property
    def what(self) -> str:
        """What it is on: workspace, queue or tag."""
        return "queue" if self.queue_id else "tag" if self.tag_key else "workspace"

    @property
    def name(self) -> str:
        """Of its queue, its tag or its workspace."""
        return self.queue.name if self.queue else self.tag or self.workspace.name

    @property
    def tag(self) -> str:
        """`key=value` or `key`; "" where it is on no tag."""
        return f"{self.tag_key}={self.tag_value}" if self.tag_value else self.tag_key


class Secret(models.Model):
    """A value that jobs of a workspace are given and nobody reads back."""

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="secrets")
    name = models.CharField(max_length=64)
    #: Encrypted for this workspace and name alone: apps.workspaces.secrets.
    sealed = models.BinaryField()
    changed_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    changed_at = models.DateTimeField(db_default=Now())

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workspace", "name"], name="secret_once_per_workspace")
        ]

    def __str__(self) -> str:
        return self.name


class Variable(models.Model):
    """A variable that every job of a workspace has; the job, its workflow or node may say else."""

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="variables")
    name = models.CharField(max_length=64)
    value = models.TextField(blank=True)
    changed_by = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+")
    changed_at = models.DateTimeField(db_default=Now())

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "name"], name="variable_once_per_workspace"
            )
        ]

    def __str__(self) -> str:
        return self.name


class TokenScope(models.TextChoices):
    READ = "read"
    RUN = "run"
    EDIT = "edit"
    ADMIN = "admin"


class ApiToken(models.Model):
    """A program's way in, acting for a user. Only the SHA-256 of its 256 random bits is kept."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    digest = models.BinaryField(max_length=32, unique=True)
    scope = models.CharField(max_length=8, choices=TokenScope.choices, default=TokenScope.READ)
    #: None: every workspace that the user sees.
    workspace = models.ForeignKey(Workspace, models.CASCADE, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    #: Written at most once a minute.
    used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(expires_at=None) | Q(expires_at__gt=F("created_at")),
                name="token_expires_after_creation",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class LoginFailures(models.Model):
    """Failed logins since `began_at`. Here, since every web process has to know of them."""

    #: SHA-256 of an account, an address or both: not what somebody typed as a user name, which
    #: now and then is a password.
    key = models.CharField(max_length=64, primary_key=True)
    began_at = models.DateTimeField(db_index=True)
    count = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.count} since {self.began_at}"
