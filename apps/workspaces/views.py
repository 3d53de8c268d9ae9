"""Pages of workspaces and their resource queues; logging out."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from apps.core.errors import Conflict, Denied, Invalid, TooMany
from apps.core.http import fragment, go, page
from apps.engine.roles import Permission
from apps.engine.serving import concerns
from apps.engine.states import Missed, RunState
from apps.engine.timevars import Moment, built_in
from apps.nodes.models import Job
from apps.runs.models import Run
from apps.runs.services.holding import hold, release
from apps.runs.services.workers import living
from apps.runs.shown import with_line
from apps.runs.waiting import line_of
from apps.workflows.models import Workflow
from apps.workspaces.access import Request, require
from apps.workspaces.forms import (
    HoldForm,
    LoginForm,
    QueueForm,
    ReleaseForm,
    SecretForm,
    VariableForm,
    WorkspaceForm,
)
from apps.workspaces.models import ResourceQueue, Secret, Variable, Workspace, WorkspaceHold
from apps.workspaces.secrets import delete_secret, set_secret
from apps.workspaces.selectors import standing_holds
from apps.workspaces.services import create_queue, create_workspace, delete_queue, edit_queue
from apps.workspaces.variables import delete_variable, set_variable


class LogIn(LoginView):
    authentication_form = LoginForm
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().post(request, *args, **kwargs)
        except TooMany as error:
            context = self.get_context_data(form=LoginForm(request), trouble=str(error))
            response = self.render_to_response(context, status=429)
            response["Retry-After"] = str(error.seconds)
            return response


@require_POST
def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    response = redirect("login")
    # Pages hold customers' data: none of them may be had back from this browser.
    response["Clear-Site-Data"] = '"cache", "cookies"'
    return response


@login_required
@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """Straight into the workspace, for whoever has just one."""
    names = list(Workspace.objects.visible_to(request.user).values_list("name", flat=True)[:2])
    return redirect("workflows:list", names[0]) if len(names) == 1 else redirect("workspaces:list")


def _count(rows: QuerySet[Any]) -> Coalesce:
    """How many rows belong to a workspace, counted apart: joins would multiply each other."""
    counted = rows.filter(workspace=OuterRef("pk")).order_by().values("workspace")
    number = Subquery(counted.annotate(n=Count("pk")).values("n"), output_field=IntegerField())
    return Coalesce(number, Value(0))


@login_required
@require_safe
def workspaces(request: HttpRequest) -> HttpResponse:
    rows = (
        Workspace.objects.visible_to(request.user)
        .annotate(
            workflow_count=_count(Workflow.objects.filter(deleted_at=None)),
            job_count=_count(Job.objects.all()),
            running_count=_count(
                Run.objects.filter(state__in=[RunState.PENDING, RunState.RUNNING])
            ),
        )
        .order_by("name")
    )
    return render(request, "workspaces/list.html", {"workspaces": rows})


@login_required
@require_safe
def switcher(request: HttpRequest) -> HttpResponse:
    """The menu behind the workspace's name; fetched when it is first opened."""
    names = Workspace.objects.visible_to(request.user).order_by("name")
    context = {
        "names": names.values_list("name", flat=True),
        "here": request.GET.get("here"),
        "heading": "Switch workspace",
    }
    return fragment(request, "workspaces/_switcher.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def create(request: HttpRequest) -> HttpResponse:
    if not request.user.is_superuser:
        raise Denied("only an administrator creates workspaces; ask one")
    form = WorkspaceForm(request.POST or None)
    if form.is_valid():
        try:
            workspace = create_workspace(**form.cleaned_data, owner=request.user)
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error("name", str(error))
        else:
            messages.success(request, f"Created workspace {workspace.name} with its two queues.")
            return go(request, reverse("workflows:list", args=[workspace.name]))
    return page(request, "workspaces/create.html", {"form": form})


# --- resource queues ------------------------------------------------------------------------


def _queues(request: Request) -> QuerySet[ResourceQueue]:
    mine = ResourceQueue.objects.visible_to(request.user)
    return mine.filter(workspace=request.workspace)


@require_safe
def queues(request: Request, workspace: str) -> HttpResponse:
    rows, alive = with_line(_queues(request)), list(living())
    # Those of other workspaces are counted, and named to nobody here.
    workers = [each for each in alive if concerns(each.names, workspace)]
    for row in rows:
        row.workspace = request.workspace
        row.workers = [each for each in workers if each.serves(row)]  # type: ignore[attr-defined]
    for worker in workers:
        # Not the names that it was given: they may be of other workspaces.
        worker.serving = [row.name for row in rows if worker in row.workers]  # type: ignore[attr-defined]
    template = "workspaces/_queues.html" if request.htmx else "workspaces/queues.html"
    context = {
        "queues": rows,
        "workers": workers,
        "elsewhere": len(alive) - len(workers),
        "holds": standing_holds([request.workspace.pk]),
        "nav": "queues",
    }
    return render(request, template, context)


@require_safe
def line(request: Request, workspace: str, pk: int) -> HttpResponse:
    """A queue: what has its capacity, and what waits for it, in the order of the line, and why."""
    row = next(iter(with_line(_queues(request).filter(pk=pk))), None)
    if row is None:
        raise Http404
    standing, places = line_of(row.pk)
    context = {"queue": row, "standing": standing, "line": places, "nav": "queues"}
    template = "workspaces/_line.html" if request.htmx else "workspaces/line.html"
    return render(request, template, context)


@require_http_methods(["GET", "POST"])
def queue_create(request: Request, workspace: str) -> HttpResponse:
    require(request, Permission.EDIT_QUEUE)
    initial = {"environments": ["production"], "capacity": 4}
    form = QueueForm(request.POST or None, initial=initial)
    if form.is_valid():
        try:
            create_queue(request.workspace, **form.settings())  # type: ignore[arg-type]
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error("name", str(error))
        else:
            messages.success(request, f"Created queue {form.cleaned_data['name']}.")
            return go(request, reverse("workspaces:queues", args=[workspace]))
    context = {"form": form, "heading": "Create queue", "nav": "queues"}
    return fragment(request, "workspaces/_queue.html", context)


@require_http_methods(["GET", "POST"])
def queue(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = get_object_or_404(_queues(request), pk=pk)
    require(request, Permission.EDIT_QUEUE)
    form = QueueForm(request.POST or None, initial=QueueForm.values_of(row))
    form.fields["name"].disabled = True
    form.fields["name"].help_text = "A queue's name stays."
    if form.is_valid():
        settings = form.settings()
        del settings["name"]
        try:
            edit_queue(row, **settings)  # type: ignore[arg-type]
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, f"Saved queue {row.name}.")
            return go(request, reverse("workspaces:queues", args=[workspace]))
    context = {"form": form, "queue": row, "heading": f"Queue {row.name}", "nav": "queues"}
    return fragment(request, "workspaces/_queue.html", context)


@require_POST
def queue_delete(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = get_object_or_404(_queues(request), pk=pk)
    require(request, Permission.EDIT_QUEUE)
    delete_queue(row)
    messages.success(request, f"Deleted queue {row.name}.")
    return go(request, reverse("workspaces:queues", args=[workspace]))


# --- secrets --------------------------------------------------------------------------------


def _secrets(request: Request) -> QuerySet[Secret]:
    """Without their values, which no page shows."""
    mine = Secret.objects.visible_to(request.user).filter(workspace=request.workspace)
    return mine.select_related("changed_by").defer("sealed")


@require_safe
def secrets(request: Request, workspace: str) -> HttpResponse:
    context = {"secrets": _secrets(request).order_by("name"), "nav": "secrets"}
    return render(request, "workspaces/secrets.html", context)


@require_http_methods(["GET", "POST"])
def secret_create(request: Request, workspace: str) -> HttpResponse:
    require(request, Permission.EDIT_SECRET)
    form = SecretForm(request.POST or None)
    # REST's PUT replaces; here a name that is taken is rather a mistake, and the old value is
    # not to be had back.
    if form.is_valid() and _secrets(request).filter(name=form.cleaned_data["name"]).exists():
        form.add_error("name", "there is such a secret already; replace its value in the list")
    return _set_secret(request, form, heading="Create secret")


@require_http_methods(["GET", "POST"])
def secret(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The dialog that replaces a value."""
    row = get_object_or_404(_secrets(request), pk=pk)
    require(request, Permission.EDIT_SECRET)
    form = SecretForm(request.POST or None, initial={"name": row.name})
    form.fields["name"].disabled = True
    form.fields["name"].help_text = "A secret's name stays."
    return _set_secret(request, form, heading=f"Replace {row.name}")


def _set_secret(request: Request, form: SecretForm, *, heading: str) -> HttpResponse:
    if form.is_valid():
        try:
            made = set_secret(request.workspace, **form.cleaned_data, user=request.user)
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, f"Set {made.name}. Jobs that start from now on get it.")
            return go(request, reverse("workspaces:secrets", args=[request.workspace.name]))
    context = {"form": form, "heading": heading, "nav": "secrets"}
    return fragment(request, "workspaces/_secret.html", context)


@require_POST
def secret_delete(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = get_object_or_404(_secrets(request), pk=pk)
    require(request, Permission.EDIT_SECRET)
    delete_secret(request.workspace, row.name)
    messages.success(request, f"Deleted {row.name}.")
    return go(request, reverse("workspaces:secrets", args=[workspace]))


# --- variables ------------------------------------------------------------------------------


def _variables(request: Request) -> QuerySet[Variable]:
    mine = Variable.objects.visible_to(request.user).filter(workspace=request.workspace)
    return mine.select_related("changed_by")


@require_safe
def variables(request: Request, workspace: str) -> HttpResponse:
    """What every job here may use as `${name}`: the workspace's own, and the built-in ones now."""
    now = built_in(Moment(timezone.now(), timezone.get_current_timezone()))
    context = {
        "variables": _variables(request).order_by("name"),
        "built_in": now,
        "nav": "variables",
    }
    return render(request, "workspaces/variables.html", context)


@require_http_methods(["GET", "POST"])
def variable_create(request: Request, workspace: str) -> HttpResponse:
    require(request, Permission.EDIT_VARIABLE)
    form = VariableForm(request.POST or None)
    if form.is_valid() and _variables(request).filter(name=form.cleaned_data["name"]).exists():
        form.add_error("name", "there is such a variable already; change its value in the list")
    return _set_variable(request, form, heading="Create variable")


@require_http_methods(["GET", "POST"])
def variable(request: Request, workspace: str, pk: int) -> HttpResponse:
    """The dialog that changes a value."""
    row = get_object_or_404(_variables(request), pk=pk)
    require(request, Permission.EDIT_VARIABLE)
    form = VariableForm(request.POST or None, initial={"name": row.name, "value": row.value})
    form.fields["name"].disabled = True
    form.fields["name"].help_text = "A variable's name stays."
    return _set_variable(request, form, heading=f"Change {row.name}")


def _set_variable(request: Request, form: VariableForm, *, heading: str) -> HttpResponse:
    if form.is_valid():
        try:
            made = set_variable(request.workspace, **form.cleaned_data, user=request.user)
        except Invalid as error:
            form.add_faults(error)
        else:
            messages.success(request, f"Set {made.name}. Runs that start from now on have it.")
            return go(request, reverse("workspaces:variables", args=[request.workspace.name]))
    context = {"form": form, "heading": heading, "nav": "variables"}
    return fragment(request, "workspaces/_variable.html", context)


@require_POST
def variable_delete(request: Request, workspace: str, pk: int) -> HttpResponse:
    row = get_object_or_404(_variables(request), pk=pk)
    require(request, Permission.EDIT_VARIABLE)
    delete_variable(request.workspace, row.name)
    messages.success(request, f"Deleted {row.name}.")
    return go(request, reverse("workspaces:variables", args=[workspace]))


# --- holds ----------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def hold_create(request: Request, workspace: str) -> HttpResponse:
    """The dialog behind Hold; `?queue=` names the queue that it was opened at."""
    require(request, Permission.OPERATE)
    rows = list(_queues(request))
    named = [str(row.pk) for row in rows if row.name == request.GET.get("queue")]
    form = HoldForm(rows, request.POST or None, initial={"on": named[0] if named else "workspace"})
    if form.is_valid():
        try:
            made = hold(request.workspace, user=request.user, **form.what())  # type: ignore[arg-type]
        except Invalid as error:
            form.add_faults(error)
        except Conflict as error:
            form.add_error("on", str(error))
        else:
            messages.success(request, f"Held {made}: nothing new starts there.")
            return go(request, reverse("workspaces:queues", args=[workspace]))
    context = {"form": form, "heading": "Hold", "nav": "queues"}
    return fragment(request, "workspaces/_hold.html", context)


@require_http_methods(["GET", "POST"])
def hold_release(request: Request, workspace: str, pk: int) -> HttpResponse:
    rows = WorkspaceHold.objects.visible_to(request.user).filter(workspace=request.workspace)
    row = get_object_or_404(rows.select_related("workspace", "queue"), pk=pk)
    require(request, Permission.OPERATE)
    form = ReleaseForm(request.POST or None)
    if form.is_valid():
        try:
            release(row, missed=Missed(form.cleaned_data["missed"]), user=request.user)
        except Conflict as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"Released {row}.")
            return go(request, reverse("workspaces:queues", args=[workspace]))
    context = {"form": form, "hold": row, "heading": f"Release {row}", "nav": "queues"}
    return fragment(request, "workspaces/_release.html", context)
