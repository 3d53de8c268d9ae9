"""Who is told when a workflow fails, what failed, and what was sent of it."""

from __future__ import annotations

from enum import StrEnum

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from apps.engine.states import Severity
from apps.workflows.models import Workflow
from apps.workspaces.models import InWorkspaceQuerySet, Workspace


class Subscription(models.Model):
    """An address that is told when a workflow fails, and when it has recovered.

    It belongs to the workflow and to no version: it counts at once, for runs under way too.
    """

    workflow = models.ForeignKey(
        Workflow, models.CASCADE, related_name="subscriptions", db_index=False
    )
    address = models.CharField(max_length=254)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workflow", "address"], name="subscription_once"),
        ]

    def __str__(self) -> str:
        return f"{self.address} for {self.workflow_id}"


class Rule(models.Model):
    """Addresses that are told of every workflow of a workspace that is so: by tag, owner, severity.

    What is "" leaves any; where nothing is said, it is every workflow. It is asked as a failure
    is told, so that it counts at once.
    """

    workspace = models.ForeignKey(
        Workspace, models.CASCADE, related_name="notification_rules", db_index=False
    )
    tag_key = models.CharField(max_length=64, default="", blank=True)
    #: Of that tag; "": any.
    tag_value = models.CharField(max_length=64, default="", blank=True)
    owner = models.CharField(max_length=100, default="", blank=True)
    severity = models.CharField(
        max_length=10, choices=[(s.value, s.value) for s in Severity], default="", blank=True
    )
    addresses = ArrayField(models.CharField(max_length=254))
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    changed_at = models.DateTimeField(db_default=Now())

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["workspace", "-id"], name="rule_by_workspace")]

    def __str__(self) -> str:
        return f"{self.condition} → {', '.join(self.addresses)}"

    @property
    def tag(self) -> str:
        """As it is written: `team=finance`, or `team` for any value."""
        return f"{self.tag_key}={self.tag_value}" if self.tag_value else self.tag_key

    @property
    def condition(self) -> str:
        """Which workflows, in words."""
        said = {"tag": self.tag, "owner": self.owner, "severity": self.severity}
        return ", ".join(f"{name} {value}" for name, value in said.items() if value) or "all"

    def matches(self, workflow: Workflow) -> bool:
        """Whether it speaks of this workflow, which is of the same workspace."""
        if self.tag_key and self.tag_key not in workflow.tags:
            return False
        if self.tag_value and workflow.tags[self.tag_key] != self.tag_value:
            return False
        if self.owner and self.owner.casefold() != workflow.owner.casefold():
            return False
        return self.severity in ("", workflow.severity)


class ChannelKind(StrEnum):
    MAIL = "mail"
    WEBHOOK = "webhook"
    APPRISE = "apprise"


class Channel(models.Model):
    """A way to tell people, under a name: where a mail address may stand, `channel:<name>` may.

    A URL holds what opens the receiver's door; it is kept encrypted and never shown again.
    """

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="+", db_index=False)
    #: It stays: subscriptions and deliveries name it.
    name = models.CharField(max_length=64)
    kind = models.CharField(max_length=10, choices=[(k.value, k.value) for k in ChannelKind])
    #: The mail addresses, by commas; of a URL what may be shown of it.
    address = models.TextField()
    #: The URL, sealed by apps.workspaces.secrets; None for mail.
    sealed_url = models.BinaryField(null=True)
    #: What a webhook is signed with, sealed too.
    sealed_secret = models.BinaryField(null=True)
    #: It is told of workflows that name nobody.
    is_default = models.BooleanField(default=False)
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    changed_at = models.DateTimeField(db_default=Now())

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace", "name"], name="channel_once_per_workspace"
            ),
            models.UniqueConstraint(
                fields=["workspace"], name="channel_default_once", condition=Q(is_default=True)
            ),
            models.CheckConstraint(
                condition=Q(kind="mail") ^ Q(sealed_url__isnull=False),
                name="channel_has_url_unless_mail",
            ),
            models.CheckConstraint(
                condition=~(Q(kind="webhook") ^ Q(sealed_secret__isnull=False)),
                name="channel_has_secret_iff_webhook",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Tells(StrEnum):
    """What a node does that one can be told of."""

    STARTED = "started"  # each attempt
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # for good, its retries used up
    RETRYING = "retrying"
    TIMED_OUT = "timed_out"  # an attempt; it may be tried again
    SLOW = "slow"  # it runs for longer than it usually does


class NodeSubscription(models.Model):
    """Addresses that are told of what one node of a workflow does, run for run.

    It belongs to the workflow and to no version; the node is known by its name, whether it is in
    the draft, in a version or in none any more.
    """

    workflow = models.ForeignKey(
        Workflow, models.CASCADE, related_name="node_subscriptions", db_index=False
    )
    node = models.CharField(max_length=64)
    addresses = ArrayField(models.CharField(max_length=254))
    states = ArrayField(
        models.CharField(max_length=10, choices=[(t.value, t.value) for t in Tells])
    )
    #: What happened before is told to nobody.
    since = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["workflow", "node"], name="node_subscription_once"),
        ]

    def __str__(self) -> str:
        return f"{self.node} of workflow {self.workflow_id}: {', '.join(self.states)}"


class Watch(models.Model):
    """What of a workflow is told though nothing has failed: that it is late, or slow.

    It belongs to the workflow and to no version. Whoever is told of its failures is told.
    """

    workflow = models.OneToOneField(
        Workflow, models.CASCADE, primary_key=True, related_name="watch"
    )
    #: From when a cycle is due, or a run by hand was asked for.
    start_within_minutes = models.PositiveIntegerField(null=True)
    done_within_minutes = models.PositiveIntegerField(null=True)
    #: The first such time after a cycle is due, in the workflow's zone.
    done_by = models.TimeField(null=True)
    #: Against its own history.
    slow = models.BooleanField(default=False)
    #: What was to happen before is told to nobody.
    since = models.DateTimeField(db_default=Now())
    #: Up to when it was looked whether cycles are late, and when to look again; None: never.
    looked_until = models.DateTimeField(db_default=Now())
    next_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["next_at"], name="watch_due")]

    def __str__(self) -> str:
        return f"watch of workflow {self.workflow_id}"


class ValueCheck(models.Model):
    """A number that a node leaves in $RUNYARD_OUTPUT, and when that is told: `load.rows < 1`."""

    workflow = models.ForeignKey(
        Workflow, models.CASCADE, related_name="value_checks", db_index=False
    )
    node = models.CharField(max_length=64)
    key = models.CharField(max_length=64)
    operator = models.CharField(max_length=2)
    number = models.FloatField()
    since = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workflow", "node", "key", "operator", "number"], name="value_check_once"
            ),
        ]

    def __str__(self) -> str:
        number = self.number
        whole = number.is_integer() and abs(number) < 1e15
        return f"{self.node}.{self.key} {self.operator} {int(number) if whole else number!r}"


class Look(models.Model):
    """Up to when somebody has looked for what is to be told, so that the next one begins there.

    Whoever looks locks its row; another leaves it to them.
    """

    name = models.CharField(max_length=20, primary_key=True)
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name


class Incident(models.Model):
    """A workflow fails: from its first failed node to the next run that succeeds.

    Whatever fails meanwhile is counted here. Runs are named by id alone: an incident may outlive
    them.
    """

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="+", db_index=False)
    workflow = models.ForeignKey(Workflow, models.CASCADE, related_name="incidents", db_index=False)
    #: The workflow's name when it failed.
    name = models.CharField(max_length=255)
    #: The run that opened it, and the node in it; "" where the run failed without one.
    run_id = models.BigIntegerField()
    node = models.CharField(max_length=64, blank=True)
    node_run_id = models.BigIntegerField(null=True)
    attempt = models.PositiveIntegerField(null=True)
    #: Why the node failed, and the line of its log that says most.
    reason = models.TextField(blank=True)
    error_line = models.TextField(blank=True)
    #: Number of that line in the log; None where it is not known.
    log_line = models.PositiveBigIntegerField(null=True)
    opened_at = models.DateTimeField()
    #: End of the newest failure that was counted.
    failed_at = models.DateTimeField()
    #: Runs that failed while it was open, the first among them.
    runs = models.PositiveIntegerField(default=0)
    acknowledged_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    acknowledged_at = models.DateTimeField(null=True)
    #: None: it is open.
    recovered_at = models.DateTimeField(null=True)
    #: The run that succeeded; None where the workflow was deleted.
    recovered_by = models.BigIntegerField(null=True)

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workflow"],
                name="incident_open_once",
                condition=Q(recovered_at=None),
            ),
        ]
        indexes = [
            models.Index(fields=["workspace", "-id"], name="incident_by_workspace"),
            models.Index(fields=["workflow", "-id"], name="incident_by_workflow"),
            # Retention.
            models.Index(
                fields=["recovered_at"],
                name="incident_by_recovery",
                condition=Q(recovered_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"incident {self.pk} of {self.name}"


class Heartbeat(models.Model):
    """A URL that is called each minute while Runyard lives, so that its silence is noticed."""

    workspace = models.OneToOneField(
        Workspace, models.CASCADE, primary_key=True, related_name="heartbeat"
    )
    #: What may be shown of the URL.
    address = models.TextField()
    sealed_url = models.BinaryField()
    #: When the last call began, when one was last answered well, and why the last one was not.
    rung_at = models.DateTimeField(null=True)
    answered_at = models.DateTimeField(null=True)
    why = models.TextField(blank=True)
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    changed_at = models.DateTimeField(db_default=Now())

    objects = InWorkspaceQuerySet.as_manager()

    def __str__(self) -> str:
        return self.address


class Silence(models.Model):
    """A person's word that nobody is told of a workflow for a while.

    The row remains when it is over: who silenced what, how long, and how much was not told.
    """

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="+", db_index=False)
    workflow = models.ForeignKey(Workflow, models.CASCADE, related_name="silences", db_index=False)
    reason = models.CharField(max_length=200, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(db_default=Now())
    until = models.DateTimeField()
    #: Messages that were not sent; one to many addresses is one.
    silenced = models.PositiveIntegerField(default=0)
    #: Once it was seen that it is over, and told what still fails.
    ended_at = models.DateTimeField(null=True)
    #: Who ended it before its time.
    ended_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+"
    )

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workflow"], name="silence_stands_once", condition=Q(ended_at=None)
            ),
        ]
        indexes = [
            # What is over and was not looked at?
            models.Index(fields=["until"], name="silence_due", condition=Q(ended_at=None)),
            models.Index(fields=["workspace", "-id"], name="silence_by_workspace"),
        ]

    def __str__(self) -> str:
        return f"silence of {self.workflow_id} until {self.until:%Y-%m-%d %H:%M}"


class FailedRun(models.Model):
    """A run that an incident counts: it is told of many times and counted once."""

    #: Of the run, which may be forgotten earlier.
    run_id = models.BigIntegerField(primary_key=True)
    incident = models.ForeignKey(Incident, models.CASCADE, related_name="+")
    #: End of its newest failure that was counted. One after that is another failure.
    failed_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"run {self.run_id} in incident {self.incident_id}"


class Kind(StrEnum):
    OPENED = "opened"
    RECOVERED = "recovered"
    BACKFILL = "backfill"  # its first failed cycle, its end
    NODE = "node"  # what a node does that an address is subscribed to
    LATE = "late"  # a cycle that has not begun or ended in time
    SLOW = "slow"
    VALUE = "value"  # a number that a node left
    TEST = "test"
    DIGEST = "digest"


class DeliveryStatus(StrEnum):
    WAITING = "waiting"  # to be sent, at `due_at` or later
    SENT = "sent"
    HELD = "held"  # over the address's hourly limit: it goes into a digest
    DIGESTED = "digested"  # told in `digest`
    FAILED = "failed"  # given up; `why` says what was in the way
    UNSENT = "unsent"  # there was no mail server to send it by
    SILENCED = "silenced"  # its workflow was silenced; what still holds is told afterwards


class Delivery(models.Model):
    """One message to one address or channel: what it says, and what has become of it.

    Written in the transaction of its event; what it says never changes, so that one that is
    sent again is the same mail, with the same Message-ID.
    """

    workspace = models.ForeignKey(Workspace, models.CASCADE, related_name="+", db_index=False)
    incident = models.ForeignKey(Incident, models.SET_NULL, null=True, related_name="deliveries")
    kind = models.CharField(max_length=10, choices=[(k.value, k.value) for k in Kind])
    #: What it tells of: "incident 12 opened". Each address hears of it once.
    event = models.CharField(max_length=64)
    #: A mail address, or `channel:<name>` of one that is no mail's.
    address = models.CharField(max_length=254)
    message_id = models.CharField(max_length=255, unique=True)
    #: Message-ID of the mail that this one answers; "": none.
    in_reply_to = models.CharField(max_length=255, blank=True)
    subject = models.CharField(max_length=255)
    text = models.TextField()
    html = models.TextField()
    #: The same for programs.
    facts = models.JSONField(default=dict)

    status = models.CharField(
        max_length=10,
        choices=[(s.value, s.value) for s in DeliveryStatus],
        default=DeliveryStatus.WAITING,
    )
    #: Sendings begun, of which at most the last has come to its end.
    tries = models.PositiveIntegerField(default=0)
    #: When the last of them began: by it an address's mails of an hour are counted.
    tried_at = models.DateTimeField(null=True)
    #: Not before; while it is being sent, when another may try.
    due_at = models.DateTimeField(db_default=Now())
    #: Why the last try came to nothing.
    why = models.TextField(blank=True)
    created_at = models.DateTimeField(db_default=Now())
    sent_at = models.DateTimeField(null=True)
    held_at = models.DateTimeField(null=True)
    #: The mail that tells of this one in its place.
    digest = models.ForeignKey("self", models.SET_NULL, null=True, related_name="told")

    objects = InWorkspaceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["event", "address"], name="delivery_once"),
        ]
        indexes = [
            models.Index(fields=["workspace", "-id"], name="delivery_by_workspace"),
            # The filters of the list.
            models.Index(fields=["workspace", "status", "-id"], name="delivery_by_status"),
            models.Index(fields=["workspace", "address", "-id"], name="delivery_by_address"),
            # What is to be sent now?
            models.Index(fields=["due_at"], name="delivery_due", condition=Q(status="waiting")),
            # What waits for a digest?
            models.Index(
                fields=["address", "workspace"],
                name="delivery_held",
                condition=Q(status="held"),
            ),
            # How much did an address get within the hour?
            models.Index(
                fields=["address", "tried_at"],
                name="delivery_tried",
                condition=Q(tried_at__isnull=False),
            ),
            # Retention.
            models.Index(fields=["created_at"], name="delivery_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.address}"
