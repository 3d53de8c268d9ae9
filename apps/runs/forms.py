"""Forms of what a person may do to a node of a run."""

from __future__ import annotations

from typing import Any

from django import forms

from apps.core.forms import Form
from apps.nodes.forms import PairsField
from apps.nodes.kinds.fields import PARAMETERS
from apps.runs.models import Run
from apps.runs.services.anew import Change, Part, newer_version


class SuccessForm(Form):
    reason = forms.CharField(
        label="Reason",
        max_length=1000,
        widget=forms.Textarea({"rows": 3}),
        help_text="Stays with the node, under your name.",
        error_messages={"required": "say why the node counts as succeeded"},
    )


class RerunForm(Form):
    scope = forms.ChoiceField(
        label="What runs again",
        choices=[("node", "This node alone"), ("downstream", "This node and all downstream")],
        initial="downstream",
        widget=forms.RadioSelect,
    )


class AnewForm(Form):
    """Running a run again as a new one. What is newer is preselected."""

    scope = forms.ChoiceField(label="What runs again", required=False, widget=forms.RadioSelect)
    version = forms.TypedChoiceField(label="Version", required=False, coerce=int, empty_value=None)
    job_versions = forms.ChoiceField(
        label="Job versions",
        required=False,
        choices=[("newest", "The newest published"), ("used", "Those that the run used")],
        initial="newest",
    )
    parameters = PairsField(label="Parameters", required=False)

    def __init__(self, data: Any = None, *, run: Run, node: str = "") -> None:
        self.run, self.node = run, node
        super().__init__(data)
        scopes = [("all", "Everything"), ("failed", "What has not succeeded")]
        if node:
            scopes += [("node", f"{node} alone"), ("downstream", f"{node} and all downstream")]
        mine = run.version.number if run.version else None
        newest = newer_version(run)
        self.fields["scope"].choices = scopes  # type: ignore[attr-defined]
        self.fields["version"].choices = [  # type: ignore[attr-defined]
            (number, f"v{number}" + self._note(number, mine, newest)) for number in self._numbers()
        ]
        left = run.succeeded < run.total
        self.initial = {
            "scope": "downstream" if node else "failed" if left and not run.job_id else "all",
            "version": newest or mine,
            "job_versions": "newest",
            "parameters": run.parameters,
        }

    def clean_parameters(self) -> dict[str, str]:
        values: dict[str, str] = self.cleaned_data["parameters"]
        if faults := list(PARAMETERS.faults(values)):
            raise forms.ValidationError(faults)
        return values

    def _numbers(self) -> list[int]:
        """Versions to choose from, the newest first; none for a job or a draft."""
        if self.run.version is None or self.run.version.number is None or not self.run.workflow:
            return []
        rows = self.run.workflow.versions.order_by("-number").values_list("number", flat=True)
        return [number for number in rows if number is not None]

    @staticmethod
    def _note(number: int, mine: int | None, newest: int | None) -> str:
        return " (published since)" if number == newest else " (the run's own)" * (number == mine)

    def _said(self, name: str) -> Any:
        """What was chosen; where nothing was sent, what is preselected."""
        if self.is_bound and name in self.data:
            return self.cleaned_data.get(name)
        return self.initial[name]

    @property
    def part(self) -> Part:
        """What was asked for. The form has been judged before, if it is bound."""
        scope = self._said("scope") or "all"
        return Part(scope, self.node if scope in ("node", "downstream") else "")

    @property
    def change(self) -> Change:
        return Change(
            version=self._said("version"),
            newest_jobs=self._said("job_versions") != "used",
            parameters=self._said("parameters"),
        )
