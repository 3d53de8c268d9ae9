"""Forms of a workflow's draft: its settings, and its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms

from apps.core.forms import Form
from apps.engine.states import Strategy
from apps.workflows.models import DraftNode, Workflow
from apps.workflows.services.drafting import NodeSettings
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


class WorkflowForm(Form):
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
    retries = _number("Retries after failure", "Default of its nodes.", 100)
    retry_interval_seconds = _number("Seconds between retries")
    timeout_seconds = _number("Timeout of a run (seconds)", "Empty: no limit.")
    parallelism = _number("Nodes at once", "In one run. Empty: no limit.", 10_000)
    strategy = forms.ChoiceField(
        label="When a node fails",
        choices=[
            (Strategy.CONTINUE.value, "what does not depend on it runs on"),
            (Strategy.END.value, "the rest is ended at once"),
        ],
    )

    def __init__(self, workspace: Workspace, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["queue"].queryset = ResourceQueue.objects.filter(  # type: ignore[attr-defined]
            workspace=workspace, production=True
        )

    @staticmethod
    def values_of(workflow: Workflow) -> dict[str, Any]:
        names = (
            "revision name description retries retry_interval_seconds timeout_seconds "
            "parallelism strategy"
        )
        values = {name: getattr(workflow, name) for name in names.split()}
        return {**values, "queue": workflow.queue_id}

    def settings(self) -> dict[str, Any]:
        """What was typed, as columns; an empty number that has a default takes it."""
        data = {k: v for k, v in self.cleaned_data.items() if k != "revision"}
        data["retries"] = data["retries"] or 0
        if data["retry_interval_seconds"] is None:
            data["retry_interval_seconds"] = 60
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
    retries = _number("Number of retries", most=100)
    retry_interval_seconds = _number("Seconds between retries")
    timeout_seconds = _number("Timeout (seconds)")
    queue = forms.ModelChoiceField(
        ResourceQueue.objects.none(), required=False, label="Resource queue"
    )
    job_version_number = _number("Pinned job version")

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
        inherited = {
            "retries": f"{workflow.retries}, from workflow",
            "retry_interval_seconds": f"{workflow.retry_interval_seconds}, from workflow",
            "timeout_seconds": "no limit",
            "job_version_number": "newest published",
        }
        for name, text in inherited.items():
            widget = self.fields[name].widget
            widget.attrs["placeholder"] = text
            if self[name].value() in (None, ""):
                widget.attrs["class"] += " oc-inherited"
        if self["queue"].value() in (None, ""):
            queue.widget.attrs["class"] += " oc-inherited"

    @staticmethod
    def values_of(node: DraftNode) -> dict[str, Any]:
        return {
            "job_path": node.job.path,
            "name": node.name,
            "upstream": list(node.in_edges.values_list("upstream__name", flat=True)),
            "retries": node.retries,
            "retry_interval_seconds": node.retry_interval_seconds,
            "timeout_seconds": node.timeout_seconds,
            "queue": node.queue_id,
            "job_version_number": node.job_version_number,
        }

    def settings(self) -> NodeSettings:
        data = {k: v for k, v in self.cleaned_data.items() if k != "revision"}
        return NodeSettings(**data)
