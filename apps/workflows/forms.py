"""Forms of a workflow's draft: its settings, and its nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, ClassVar, TypeVar

from django import forms

from apps.core.errors import Invalid
from apps.core.forms import Form
from apps.engine.backfill import MOST_AT_ONCE, Order, Which
from apps.engine.priority import Priority
from apps.engine.retry import BACKOFF_LEAST, BACKOFF_MOST
from apps.engine.states import Overlap, Severity, Strategy
from apps.nodes.forms import PairsField
from apps.nodes.kinds.fields import PARAMETERS
from apps.notifications.addresses import read_addresses
from apps.notifications.models import NodeSubscription, Tells
from apps.notifications.services.channels import check_channels
from apps.runs.services.backfill import Asked
from apps.workflows.models import POLICIES, DraftNode, Workflow
from apps.workflows.schedule_fields import ScheduleForm
from apps.workflows.services.drafting import NodeSettings
from apps.workflows.services.ownership import MAX_OWNER, MAX_RUNBOOK, Ownership, ownership_of
from apps.workspaces.models import ResourceQueue, Workspace


def _number(label: str, help_text: str = "", most: int = 10_000_000) -> forms.IntegerField:
    return forms.IntegerField(
        label=label,
        help_text=help_text,
        required=False,
        min_value=0,
        max_value=most,
        widget=forms.NumberInput({"autocomplete": "off"}),
    )


class ExitCodesField(forms.Field):
    """Exit codes with commas or spaces between them; the word "none" is an empty list."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.TextInput({"autocomplete": "off"})
        super().__init__(label="Exit codes never retried", required=False, widget=widget, **kwargs)

    def to_python(self, value: Any) -> list[int] | None:
        """None for nothing at all."""
        words = str(value or "").replace(",", " ").split()
        if not words:
            return None
        if [word.lower() for word in words] == ["none"]:
            return []
        wrong = [word for word in words if not (word.isascii() and word.isdigit())]
        if wrong:
            raise forms.ValidationError(
                f"{wrong[0]!r} is no exit code; write numbers from 1 to 255, as in: 2, 64"
            )
        return [int(word) for word in words]

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, list):
            return ", ".join(str(code) for code in value) or "none"
        return value


def _backoff() -> forms.FloatField:
    return forms.FloatField(
        label="Back-off",
        help_text="1: even pauses. 2: each doubles.",
        required=False,
        min_value=BACKOFF_LEAST,
        max_value=BACKOFF_MOST,
        widget=forms.NumberInput({"autocomplete": "off", "step": "0.1"}),
    )


def _priority() -> forms.TypedChoiceField:
    return forms.TypedChoiceField(
        label="Priority",
        required=False,
        coerce=int,
        empty_value=None,
        choices=[(each.value, each.word) for each in sorted(Priority, reverse=True)],
    )


class WorkflowForm(ScheduleForm):
    revision = forms.IntegerField(widget=forms.HiddenInput, required=False)
    name = forms.CharField(
        max_length=128, widget=forms.TextInput({"autocomplete": "off", "autofocus": True})
    )
    description = forms.CharField(required=False, widget=forms.Textarea({"rows": 2}))
    queue = forms.ModelChoiceField(
        ResourceQueue.objects.none(),
        required=False,
        label="Resource queue",
        empty_label="as each job says",
        help_text="Default of its nodes. A queue set on a node stays.",
    )
    retries = _number("Retries", "After a failure.", 100)
    retry_interval_seconds = _number("Retry interval (seconds)")
    retry_backoff = _backoff()
    retry_max_interval_seconds = _number("Longest pause (seconds)", "Where back-off grows it.")
    final_exit_codes = ExitCodesField(help_text="As in: 2, 64.")
    queue_timeout_seconds = _number(
        "Longest wait (seconds)", "In a queue, then the node fails. Empty: no limit."
    )
    priority = _priority()
    timeout_seconds = _number("Timeout of a run (seconds)", "Empty: no limit.")
    parallelism = _number("Nodes at once", "In one run. Empty: no limit.", 10_000)
    data_offset = _number(
        "Data offset (days)", "From a cycle's date back to its data's, ${ds}. Empty: 1.", 3_650
    )
    variables = PairsField(
        label="Variables",
        required=False,
        help_text="For all nodes; a node's own win. ${name} and $[yyyyMMdd-1] are replaced.",
    )
    strategy = forms.ChoiceField(
        label="Strategy: when a node fails",
        choices=[
            (Strategy.CONTINUE.value, "what does not depend on it runs on"),
            (Strategy.END.value, "the rest is ended at once"),
        ],
    )
    overlap = forms.ChoiceField(
        label="Overlap: when a scheduled run meets an earlier one",
        required=False,
        choices=[
            (Overlap.PARALLEL.value, "both run, as many as are let"),
            (Overlap.WAIT.value, "it waits in line"),
            (Overlap.SKIP.value, "it is skipped"),
        ],
        help_text="Runs by hand, by API and of a backfill start all the same.",
    )
    overlap_limit = _number(
        "Scheduled runs at once", "Where both run; the others wait in line. Empty: 16.", 10_000
    )

    def __init__(self, workspace: Workspace, *args: Any, **kwargs: Any) -> None:
        super().__init__(workspace, *args, **kwargs)
        self.fields["queue"].queryset = ResourceQueue.objects.filter(  # type: ignore[attr-defined]
            workspace=workspace, production=True
        )

    @staticmethod
    def values_of(workflow: Workflow) -> dict[str, Any]:
        names = ("revision", "name", "description", "timeout_seconds", "parallelism")
        more = ("strategy", "overlap", "overlap_limit", "data_offset", "variables", *POLICIES)
        values = {name: getattr(workflow, name) for name in (*names, *more)}
        values["retry_backoff"] = f"{workflow.retry_backoff:g}"
        values["final_exit_codes"] = workflow.final_exit_codes or None
        return {**values, **ScheduleForm.schedule_values(workflow), "queue": workflow.queue_id}

    def settings(self) -> dict[str, Any]:
        """What was typed, as columns; an empty number that has a default takes it."""
        data = {
            name: value
            for name, value in self.cleaned_data.items()
            if name != "revision" and not name.startswith("schedule_")
        }
        data["schedule"] = self.schedule()
        empty = Workflow()
        data["overlap"] = data["overlap"] or empty.overlap
        for name in ("overlap_limit", "data_offset", *POLICIES):
            if data[name] is None:
                data[name] = getattr(empty, name)
        return data


class TagsForm(Form):
    tags = forms.CharField(
        required=False,
        max_length=10_000,
        help_text="key=value, by commas. They count at once and are in no version: a hold on a "
        "tag holds the runs of every workflow that has it.",
        widget=forms.TextInput({"class": "oc-code-line", "autocomplete": "off"}),
    )

    @staticmethod
    def values_of(workflow: Workflow) -> dict[str, str]:
        return {"tags": ", ".join(f"{key}={value}" for key, value in workflow.tags.items())}


class OwnershipForm(Form):
    """Who looks after a workflow, and what is told beside its failure."""

    owner = forms.CharField(
        required=False,
        max_length=MAX_OWNER,
        help_text="A person or a team, in words.",
        widget=forms.TextInput({"autocomplete": "off", "placeholder": "nobody is named"}),
    )
    severity = forms.ChoiceField(
        choices=[(each.value, each.value.capitalize()) for each in Severity],
        help_text="How much a failure matters.",
    )
    runbook = forms.CharField(
        required=False,
        max_length=MAX_RUNBOOK,
        help_text="Where it is written what to do when it fails. With owner and severity it stands "
        "in the mail and in the incident. All three count at once and are in no version.",
        widget=forms.TextInput(
            {"inputmode": "url", "autocomplete": "off", "placeholder": "https://"}
        ),
    )

    @staticmethod
    def values_of(workflow: Workflow) -> dict[str, str]:
        said = ownership_of(workflow)
        return {"owner": said.owner, "severity": said.severity.value, "runbook": said.runbook}

    def said(self) -> Ownership:
        data = self.cleaned_data
        return Ownership(data["owner"], data["runbook"], Severity(data["severity"]))


def _date(label: str, help_text: str = "", *, required: bool = False) -> forms.DateField:
    return forms.DateField(
        required=required,
        label=label,
        help_text=help_text,
        input_formats=["%Y-%m-%d"],
        widget=forms.DateInput({"type": "date", "autocomplete": "off"}, format="%Y-%m-%d"),
        error_messages={"invalid": "write it as 2026-03-01"},
    )


class LaunchForm(Form):
    """What every way to start a workflow asks. What is left empty is as the version says."""

    queue = forms.ModelChoiceField(
        ResourceQueue.objects.none(),
        required=False,
        label="Resource queue",
        empty_label="each node's own",
    )
    parameters = PairsField(
        label="Parameters",
        required=False,
        help_text="They win over every other variable of the same name.",
    )
    remarks = forms.CharField(required=False, max_length=2000, widget=forms.Textarea({"rows": 2}))

    #: Which of the workspace's queues are offered.
    queues: ClassVar[dict[str, bool]] = {}

    def __init__(self, workflow: Workflow, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        queues = ResourceQueue.objects.filter(workspace=workflow.workspace_id, **self.queues)
        self.fields["queue"].queryset = queues.order_by("name")  # type: ignore[attr-defined]

    def clean_parameters(self) -> dict[str, str]:
        values: dict[str, str] = self.cleaned_data["parameters"]
        if faults := list(PARAMETERS.faults(values)):
            raise forms.ValidationError(faults)
        return values


class OneRunForm(LaunchForm):
    """One run, now or for a data date."""

    data_date = _date("Data date", "Empty: a run for now.")
    priority = _priority()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["priority"].choices = [  # type: ignore[attr-defined]
            ("", "each node's own"),
            *OneRunForm.base_fields["priority"].choices,  # type: ignore[attr-defined]
        ]

    def settings(self) -> dict[str, Any]:
        """What `launch` takes of it."""
        data = self.cleaned_data
        level = data["priority"]
        return {
            "queue": data["queue"],
            "priority": None if level is None else Priority(level),
            "parameters": data["parameters"],
            "remarks": data["remarks"],
        }


class RunForm(OneRunForm):
    """Manually Run: the published version, in production."""

    queues = {"production": True}


class DebugForm(OneRunForm):
    """Debug: the draft, every node in one development queue."""

    queues = {"development": True}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        queue = self.fields["queue"]
        queue.required, queue.empty_label = True, None  # type: ignore[attr-defined]
        queue.label = "Development queue"
        queue.help_text = "For every node."


class DryRunForm(OneRunForm):
    """Dry run: what would be started, of the published version or the draft."""

    draft = forms.ChoiceField(
        label="Of",
        required=False,
        choices=[("", "the published version"), ("1", "the draft")],
    )


class BackfillForm(LaunchForm):
    """Backfill: one run for each past cycle of a range of data dates, or of a list."""

    queues = {"production": True}

    #: Cycle times by spaces: of a point that was missed.
    cycles = forms.CharField(required=False, max_length=1000, widget=forms.HiddenInput)
    first_date = _date("From", required=False)
    last_date = _date("To", required=False)
    dates = forms.CharField(
        required=False,
        max_length=250_000,
        label="A list of dates instead",
        help_text="As 2026-03-01, by spaces or lines.",
        widget=forms.Textarea({"rows": 2, "class": "oc-code-line", "autocomplete": "off"}),
    )
    which = forms.ChoiceField(
        label="Which of them",
        choices=[
            (Which.ALL.value, "all"),
            (Which.MISSING.value, "only missing: none has succeeded"),
            (Which.FAILED.value, "only failed: the newest failed"),
        ],
    )
    order = forms.ChoiceField(
        choices=[(Order.OLDEST.value, "oldest first"), (Order.NEWEST.value, "newest first")]
    )
    at_once = forms.IntegerField(
        label="At once",
        min_value=1,
        max_value=MOST_AT_ONCE,
        widget=forms.NumberInput({"autocomplete": "off"}),
    )
    stop_after = forms.IntegerField(
        required=False,
        label="Pause after",
        help_text="Failed cycles. Empty: it goes on.",
        min_value=1,
        max_value=1_000_000,
        widget=forms.NumberInput({"autocomplete": "off"}),
    )
    node = forms.ChoiceField(required=False, label="Nodes")
    downstream = forms.BooleanField(required=False, label="And all downstream of it")
    addresses = forms.CharField(
        required=False,
        max_length=10_000,
        label="Failure notification",
        help_text="E-mail addresses and channels. Empty: whom the workflow tells.",
        widget=forms.TextInput({"class": "oc-code-line", "autocomplete": "off"}),
    )
    #: Of the preview that was looked at, and how many cycles it had, where they are many.
    token = forms.CharField(required=False, max_length=200, widget=forms.HiddenInput)
    sure = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, workflow: Workflow, *args: Any, **kwargs: Any) -> None:
        self._workspace_id = workflow.workspace_id
        super().__init__(workflow, *args, **kwargs)
        graph = workflow.published.graph if workflow.published else {"nodes": []}
        self.fields["node"].choices = [  # type: ignore[attr-defined]
            ("", "all nodes"),
            *((node["name"], node["name"]) for node in graph["nodes"]),
        ]

    @staticmethod
    def defaults(dates: tuple[date, date] | None) -> dict[str, str]:
        """What stands in it before anybody types; `dates` are the first and the last."""
        first, last = dates or ("", "")
        return {
            "first_date": str(first),
            "last_date": str(last),
            "which": Which.ALL.value,
            "order": Order.OLDEST.value,
            "at_once": "1",
        }

    def clean_cycles(self) -> list[datetime]:
        found = [
            _read(datetime.fromisoformat, word) for word in self.cleaned_data["cycles"].split()
        ]
        if any(cycle.tzinfo is None for cycle in found):
            raise forms.ValidationError("write times with an offset, as 2026-03-02T02:00:00Z")
        return found

    def clean_dates(self) -> list[date]:
        words = self.cleaned_data["dates"].replace(",", " ").split()
        return [_read(date.fromisoformat, word) for word in words]

    def clean_addresses(self) -> list[str]:
        try:
            addresses = read_addresses(self.cleaned_data["addresses"])
            check_channels(self._workspace_id, addresses)
            return addresses
        except Invalid as error:
            raise forms.ValidationError([fault.message for fault in error.faults]) from None

    def asked(self) -> Asked:
        """What of it decides which runs there will be. A list counts for more than the range."""
        data = self.cleaned_data
        said: dict[str, Any] = {"cycles": data["cycles"]}
        if not data["cycles"]:
            said = {"dates": data["dates"]}
            if not data["dates"]:
                said = {"first_date": data["first_date"], "last_date": data["last_date"]}
        return Asked(
            **said,
            which=Which(data["which"]),
            order=Order(data["order"]),
            node=data["node"],
            downstream=bool(data["node"]) and data["downstream"],
            queue=data["queue"],
            parameters=data["parameters"],
        )


_Time = TypeVar("_Time", date, datetime)


def _read(reader: Callable[[str], _Time], word: str) -> _Time:
    try:
        return reader(word)
    except ValueError:
        raise forms.ValidationError(
            f"{word[:40]!r} is none; write it as 2026-03-01", code="invalid"
        ) from None


class NodeForm(Form):
    """The Add Node panel. What is left empty follows the workflow or the job."""

    revision = forms.IntegerField(widget=forms.HiddenInput)
    job_path = forms.CharField(
        max_length=255,
        label="Job",
        help_text="A published job. Runs take its newest published version.",
        widget=forms.TextInput(
            {"class": "oc-code-line", "list": "oc-published", "autocomplete": "off"}
        ),
    )
    name = forms.CharField(
        max_length=64,
        required=False,
        label="Node name",
        widget=forms.TextInput({"autocomplete": "off"}),
    )
    upstream = forms.MultipleChoiceField(
        required=False, label="Upstream nodes", widget=forms.CheckboxSelectMultiple
    )
    retries = _number("Retries", most=100)
    retry_interval_seconds = _number("Retry interval (seconds)")
    retry_backoff = _backoff()
    retry_max_interval_seconds = _number("Longest pause (seconds)")
    final_exit_codes = ExitCodesField(help_text="none: every failure is retried.")
    queue_timeout_seconds = _number("Longest wait (seconds)")
    priority = _priority()
    timeout_seconds = _number("Timeout (seconds)", "Of an attempt.")
    queue = forms.ModelChoiceField(
        ResourceQueue.objects.none(), required=False, label="Resource queue"
    )
    job_version_number = _number("Pinned job version")
    variables = PairsField(
        label="Variables", required=False, help_text="They win over the workflow's and the job's."
    )
    told = forms.CharField(
        required=False,
        max_length=10_000,
        label="Subscription",
        help_text="E-mail addresses and channels, by commas. It counts at once and is "
        "in no version.",
        widget=forms.TextInput(
            {"inputmode": "email", "autocomplete": "off", "placeholder": "nobody is told"}
        ),
    )
    tells = forms.MultipleChoiceField(
        required=False,
        choices=[(each.value, each.value.replace("_", " ")) for each in Tells],
        widget=forms.CheckboxSelectMultiple,
        label="Told when it is",
    )

    def __init__(
        self, workflow: Workflow, others: Sequence[DraftNode], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        chosen = set(self["upstream"].value() or ())
        names = sorted(
            (other.name for other in others), key=lambda name: (name not in chosen, name)
        )
        self.fields["upstream"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]
        queue = self.fields["queue"]
        queue.queryset = ResourceQueue.objects.filter(  # type: ignore[attr-defined]
            workspace=workflow.workspace_id, production=True
        )
        default = workflow.queue.name if workflow.queue else "the job's"
        queue.empty_label = f"{default}, from workflow"  # type: ignore[attr-defined]
        codes = ", ".join(str(code) for code in workflow.final_exit_codes) or "none"
        wait = workflow.queue_timeout_seconds or "no limit"
        level = Priority(workflow.priority).word
        self.fields["priority"].choices = [  # type: ignore[attr-defined]
            ("", f"{level}, from workflow"),
            *NodeForm.base_fields["priority"].choices,  # type: ignore[attr-defined]
        ]
        inherited = {
            "retries": f"{workflow.retries}, from workflow",
            "retry_interval_seconds": f"{workflow.retry_interval_seconds}, from workflow",
            "retry_backoff": f"{workflow.retry_backoff:g}, from workflow",
            "retry_max_interval_seconds": f"{workflow.retry_max_interval_seconds}, from workflow",
            "final_exit_codes": f"{codes}, from workflow",
            "queue_timeout_seconds": f"{wait}, from workflow",
            "timeout_seconds": "no limit",
            "job_version_number": "newest published",
        }
        for name, text in inherited.items():
            widget = self.fields[name].widget
            widget.attrs["placeholder"] = text
            if self[name].value() in (None, ""):
                widget.attrs["class"] += " oc-inherited"
        for name in ("queue", "priority"):
            if self[name].value() in (None, ""):
                self.fields[name].widget.attrs["class"] += " oc-inherited"

    @staticmethod
    def values_of(node: DraftNode) -> dict[str, Any]:
        return {
            "job_path": node.job.path,
            "name": node.name,
            "upstream": list(node.in_edges.values_list("upstream__name", flat=True)),
            **{name: getattr(node, name) for name in POLICIES},
            "timeout_seconds": node.timeout_seconds,
            "queue": node.queue_id,
            "job_version_number": node.job_version_number,
            "variables": node.variables,
            **NodeForm._subscription_of(node),
        }

    @staticmethod
    def _subscription_of(node: DraftNode) -> dict[str, Any]:
        rows = NodeSubscription.objects.filter(workflow=node.workflow_id, node=node.name)
        row = rows.first()
        return {"told": ", ".join(row.addresses), "tells": row.states} if row else {}

    def settings(self) -> NodeSettings:
        data = self.cleaned_data
        return NodeSettings(**{k: data[k] for k in data if k not in ("revision", "told", "tells")})

    def subscription(self) -> tuple[list[str], list[Tells]]:
        """Who is told, and of what. Raises Invalid with every fault."""
        addresses = read_addresses(self.cleaned_data["told"], "told")
        tells = [Tells(each) for each in self.cleaned_data["tells"]]
        if addresses and not tells:
            raise Invalid("choose when they are told", "tells")
        if tells and not addresses:
            raise Invalid("name the addresses that are told", "told")
        return addresses, tells
