"""REST: tokens, workspaces, resource queues."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework.response import Response

from apps.core.api.endpoint import Endpoint
from apps.core.api.fields import Flag, Number, PageQuery, Strict, Text, page_example, page_of
from apps.core.api.operation import Place, operation
from apps.core.errors import Denied, FieldFault, Invalid
from apps.engine.roles import Permission
from apps.engine.states import Missed
from apps.engine.timevars import MAX_VALUE
from apps.engine.waiting import Code, Kind, Reason
from apps.runs.services.holding import hold, release
from apps.runs.waiting import heads_of
from apps.workspaces.logging_in import log_in
from apps.workspaces.models import (
    InWorkspaceQuerySet,
    ResourceQueue,
    Secret,
    TokenScope,
    Variable,
    Workspace,
    WorkspaceHold,
)
from apps.workspaces.secrets import delete_secret, set_secret
from apps.workspaces.selectors import workspace_of
from apps.workspaces.services import (
    create_queue,
    create_token,
    create_workspace,
    delete_queue,
    edit_queue,
)
from apps.workspaces.variables import delete_variable, set_variable

#: How long a token is good where the request does not say.
TOKEN_DAYS = 90


def thousandths(units: float) -> int:
    """Compute units as the database keeps them."""
    return round(units * 1000)


class Units(serializers.FloatField):
    """Compute units, kept in thousandths."""

    def to_representation(self, value: int) -> float:
        return value / 1000


# --- tokens ---------------------------------------------------------------------------------


class TokenCreateSerializer(Strict):
    username = Text(max_length=150)
    password = Text(max_length=4096, help_text="Of the user; it is kept nowhere.")
    name = Text(max_length=100, help_text="What the token is for.")
    scope = serializers.ChoiceField(
        choices=TokenScope.values,
        default=TokenScope.READ.value,
        help_text="Each includes those before it: read, run, edit, admin.",
    )
    workspace = Text(
        max_length=64,
        allow_null=True,
        default=None,
        help_text="The only workspace that it is good for; null: every one of the user's.",
    )
    expires_at = serializers.DateTimeField(
        required=False, help_text=f"Without it {TOKEN_DAYS} days from now."
    )


class TokenSerializer(serializers.Serializer):
    token = serializers.CharField(help_text="Shown this once; only its SHA-256 is kept.")
    name = serializers.CharField()
    scope = serializers.ChoiceField(choices=TokenScope.values)
    workspace = serializers.CharField(allow_null=True)
    expires_at = serializers.DateTimeField()


class TokenEndpoint(Endpoint):
    tag = "Tokens"
    public = True
    # A session or a token that comes along changes nothing: the password decides.
    authentication_classes = ()

    @operation(
        "create_token",
        "Log in: get a token",
        body=TokenCreateSerializer,
        answers={201: TokenSerializer},
        example={
            "username": "maya",
            "password": "correct horse battery",
            "name": "nightly build",
            "scope": "run",
            "workspace": "default",
        },
        shows={
            "token": "runyard_sEQ5iX1hT0…",
            "name": "nightly build",
            "scope": "run",
            "workspace": "default",
            "expires_at": "2026-03-01T08:00:00Z",
        },
    )
    def post(self, request: Request) -> Response:
        """A wrong name, a wrong password and a user who is not active get the same answer after
        the same time: a password is hashed in each case. After 5 wrong ones in a minute for one
        user from one address the answer is 429, and `Retry-After` says how long."""
        data = self.body()
        now = timezone.now()
        expires_at = data.get("expires_at", now + timedelta(days=TOKEN_DAYS))
        if expires_at <= now:
            raise Invalid("lies in the past; give a time that is yet to come", "expires_at")
        user = log_in(request._request, data["username"], data["password"])
        if user is None:
            raise AuthenticationFailed("the user name or the password is wrong")
        bound = workspace_of(user, data["workspace"]) if data["workspace"] else None
        token = create_token(
            user,
            data["name"],
            scope=TokenScope(data["scope"]),
            workspace=bound,
            expires_at=expires_at,
        )
        shown = {**data, "token": token, "expires_at": expires_at}
        return Response(TokenSerializer(shown).data, status=201)


# --- workspaces -----------------------------------------------------------------------------


class WorkspaceCreateSerializer(Strict):
    name = Text(
        max_length=64, help_text="Letters, digits, `-` and `_`; it stands in every address."
    )
    zone = Text(max_length=64, default="UTC", help_text="IANA name, such as Europe/Berlin.")


class WorkspaceSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField()
    zone = serializers.CharField()
    created_at = serializers.DateTimeField()


WORKSPACE = {
    "id": 1,
    "name": "default",
    "zone": "UTC",
    "created_at": "2025-11-20T08:00:00Z",
}


class WorkspacesEndpoint(Endpoint):
    tag = "Workspaces"

    @operation(
        "list_workspaces",
        "List your workspaces",
        query=PageQuery,
        answers={200: page_of(WorkspaceSerializer)},
        shows=page_example(WORKSPACE),
    )
    def get(self, request: Request) -> Response:
        """A token that is bound to a workspace sees that one."""
        rows = Workspace.objects.visible_to(request.user)
        if request.auth is not None and request.auth.workspace_id is not None:
            rows = rows.filter(pk=request.auth.workspace_id)
        return self.page(rows, WorkspaceSerializer)

    @operation(
        "create_workspace",
        "Create a workspace",
        scope=TokenScope.ADMIN,
        body=WorkspaceCreateSerializer,
        answers={201: WorkspaceSerializer},
        example={"name": "analytics", "zone": "Europe/Berlin"},
        shows={**WORKSPACE, "name": "analytics", "zone": "Europe/Berlin"},
    )
    def post(self, request: Request) -> Response:
        """For administrators of the platform. It comes with its two queues, `dev_queue` and
        `root_queue`."""
        if not request.user.is_superuser:
            raise Denied("only an administrator creates workspaces; ask one")
        if request.auth is not None and request.auth.workspace_id is not None:
            raise Denied("this token is bound to one workspace; use one that is not")
        made = create_workspace(**self.body(), owner=request.user)
        return Response(WorkspaceSerializer(made).data, status=201)


class WorkspaceEndpoint(Endpoint):
    tag = "Workspaces"

    @operation(
        "get_workspace",
        "Get a workspace",
        permission=Permission.VIEW,
        answers={200: WorkspaceSerializer},
        shows=WORKSPACE,
    )
    def get(self, request: Request, workspace: str) -> Response:
        return Response(WorkspaceSerializer(self.workspace).data)


# --- waiting --------------------------------------------------------------------------------


class WaitingLinkSerializer(serializers.Serializer):
    kind = serializers.ChoiceField(choices=[each.value for each in Kind])
    id = serializers.IntegerField(allow_null=True, help_text="Null of a worker: it has a name.")
    name = serializers.CharField(help_text="As it stands in the sentence.")
    run = serializers.IntegerField(allow_null=True, help_text="Of a node: its run.")


class WaitingSerializer(serializers.Serializer):
    """Why it does not move."""

    code = serializers.ChoiceField(choices=[each.value for each in Code])
    sentence = serializers.CharField(help_text="For people.")
    links = WaitingLinkSerializer(many=True, help_text="What the sentence names.")


def told(reason: Reason | None) -> dict[str, Any] | None:
    """A reason in the shape of WaitingSerializer."""
    if reason is None:
        return None
    links = [
        {
            "kind": each.kind,
            "id": each.id if isinstance(each.id, int) else None,
            "name": each.name,
            "run": each.run,
        }
        for each in reason.links
    ]
    return {"code": reason.code, "sentence": reason.sentence, "links": links}


# --- resource queues ------------------------------------------------------------------------


class QueueSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    capacity = Units(help_text="In CU: 1 CU is 1 core and 4 GiB.")
    used = Units(help_text="In CU, by nodes that run now.")
    held = serializers.BooleanField(help_text="A hold stands on it or on its workspace.")
    development = serializers.BooleanField(help_text="Runs of drafts may use it.")
    production = serializers.BooleanField(help_text="All other runs may use it.")
    spark_master = serializers.CharField()
    waiting = WaitingSerializer(
        allow_null=True, help_text="Why the first in its line waits; null where nothing does."
    )


class QueueEditSerializer(Strict):
    description = Text(max_length=200, allow_blank=True, required=False)
    capacity = Number(
        min_value=0.001, max_value=1_000_000, required=False, help_text="In CU, to three decimals."
    )
    development = Flag(required=False)
    production = Flag(required=False)
    spark_master = Text(
        max_length=200,
        required=False,
        help_text="`local`, spark://host:port, yarn or k8s://https://host:port",
    )


class QueueCreateSerializer(QueueEditSerializer):
    name = Text(max_length=64, help_text="Letters, digits, `-` and `_`; it stays.")
    capacity = Number(min_value=0.001, max_value=1_000_000, help_text="In CU, to three decimals.")
    development = Flag(default=False)
    production = Flag(default=False)


QUEUE = {
    "id": 3,
    "name": "nightly",
    "description": "For the load of the warehouse.",
    "capacity": 8.0,
    "used": 0.25,
    "held": False,
    "development": False,
    "production": True,
    "spark_master": "local",
    "waiting": None,
}


def with_waiting(queues: Sequence[ResourceQueue]) -> None:
    """Give each its `waiting`; three queries."""
    heads = heads_of([queue.pk for queue in queues])
    for queue in queues:
        queue.waiting = told(heads.get(queue.pk))  # type: ignore[attr-defined]


def queue_named(workspace: Workspace, name: str | None, field: str = "queue") -> Any:
    """The queue that a body names; None for None. Raises Invalid."""
    if name is None:
        return None
    queue = workspace.queues.filter(name=name).first()
    if queue is None:
        raise Invalid([FieldFault(field, f"there is no queue {name!r} in this workspace")])
    return queue


class QueueEndpoints(Endpoint):
    tag = "Resource queues"
    places = {"queue": Place("Name of the resource queue.", "root_queue", str)}

    def columns(self) -> dict[str, Any]:
        data = self.body()
        if "capacity" in data:
            data["capacity"] = thousandths(data["capacity"])
        return data

    def shown(self, queue: ResourceQueue, *, status: int = 200) -> Response:
        with_waiting([queue])
        return Response(QueueSerializer(queue).data, status=status)


class QueuesEndpoint(QueueEndpoints):
    @operation(
        "list_queues",
        "List resource queues",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(QueueSerializer)},
        shows=page_example(QUEUE),
    )
    def get(self, request: Request, workspace: str) -> Response:
        return self.page(self.visible(ResourceQueue.objects.all()), QueueSerializer, with_waiting)

    @operation(
        "create_queue",
        "Create a resource queue",
        permission=Permission.EDIT_QUEUE,
        body=QueueCreateSerializer,
        answers={201: QueueSerializer},
        example={
            "name": "weekend",
            "description": "For what may take its time.",
            "capacity": 8,
            "production": True,
        },
        shows={
            **QUEUE,
            "name": "weekend",
            "description": "For what may take its time.",
            "used": 0.0,
        },
    )
    def post(self, request: Request, workspace: str) -> Response:
        queue = create_queue(self.workspace, **self.columns())
        return self.shown(queue, status=201)


class QueueEndpoint(QueueEndpoints):
    @operation(
        "get_queue",
        "Get a resource queue",
        permission=Permission.VIEW,
        answers={200: QueueSerializer},
        shows=QUEUE,
    )
    def get(self, request: Request, workspace: str, queue: str) -> Response:
        return self.shown(self.queue(queue))

    @operation(
        "edit_queue",
        "Edit a resource queue",
        permission=Permission.EDIT_QUEUE,
        body=QueueEditSerializer,
        answers={200: QueueSerializer},
        example={"capacity": 12.5},
        shows={**QUEUE, "capacity": 12.5},
    )
    def patch(self, request: Request, workspace: str, queue: str) -> Response:
        """What is left out stays. A lowered capacity ends nothing that runs."""
        row = self.queue(queue)
        stands = {name: getattr(row, name) for name in QueueEditSerializer._declared_fields}
        row = edit_queue(row, **{**stands, **self.columns()})
        return self.shown(row)

    @operation(
        "delete_queue",
        "Delete a resource queue",
        permission=Permission.EDIT_QUEUE,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, queue: str) -> Response:
        """Refused while a job, a workflow or a run names it, and for `root_queue`."""
        delete_queue(self.queue(queue))
        return Response(status=204)

    def queue(self, name: str) -> ResourceQueue:
        row: ResourceQueue = self.one(self.visible(ResourceQueue.objects.all()), "queue", name=name)
        return row


# --- secrets --------------------------------------------------------------------------------


class SecretSerializer(serializers.Serializer):
    """Without its value, which nobody gets back."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    changed_by = serializers.CharField(source="changed_by.username", allow_null=True)
    changed_at = serializers.DateTimeField()


class SecretSetSerializer(Strict):
    value = Text(max_length=16384, help_text="From 6 characters on. Jobs that start later get it.")


SECRET = {
    "id": 7,
    "name": "WAREHOUSE_PASSWORD",
    "changed_by": "maya",
    "changed_at": "2025-11-20T08:00:00Z",
}


class SecretEndpoints(Endpoint):
    tag = "Secrets"
    places = {"secret": Place("Name of the secret.", "WAREHOUSE_PASSWORD", str)}


class SecretsEndpoint(SecretEndpoints):
    @operation(
        "list_secrets",
        "List secrets",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(SecretSerializer)},
        shows=page_example(SECRET),
    )
    def get(self, request: Request, workspace: str) -> Response:
        """Their names, and who changed each when."""
        rows = self.visible(Secret.objects.select_related("changed_by").defer("sealed"))
        return self.page(rows, SecretSerializer)


class SecretEndpoint(SecretEndpoints):
    @operation(
        "set_secret",
        "Set a secret",
        permission=Permission.EDIT_SECRET,
        body=SecretSetSerializer,
        answers={200: SecretSerializer},
        example={"value": "correct horse battery"},
        shows=SECRET,
    )
    def put(self, request: Request, workspace: str, secret: str) -> Response:
        """Makes it or replaces it. The name is that of an environment variable."""
        made = set_secret(self.workspace, secret, self.body()["value"], user=request.user)
        return Response(SecretSerializer(made).data)

    @operation(
        "delete_secret",
        "Delete a secret",
        permission=Permission.EDIT_SECRET,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, secret: str) -> Response:
        """Jobs that name it fail at their start from now on."""
        delete_secret(self.workspace, secret)
        return Response(status=204)


# --- variables ------------------------------------------------------------------------------


class VariableSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField()
    value = serializers.CharField(allow_blank=True, help_text="As it is written.")
    changed_by = serializers.CharField(source="changed_by.username", allow_null=True)
    changed_at = serializers.DateTimeField()


class VariableSetSerializer(Strict):
    value = Text(
        allow_blank=True,
        max_length=MAX_VALUE,
        help_text="May use others, `${ds}` and `$[yyyyMMdd-1]`. Runs that start later have it.",
    )


VARIABLE = {
    "id": 3,
    "name": "region",
    "value": "eu",
    "changed_by": "maya",
    "changed_at": "2025-11-20T08:00:00Z",
}


class VariableEndpoints(Endpoint):
    tag = "Variables"
    places = {"variable": Place("Name of the variable.", "region", str)}


class VariablesEndpoint(VariableEndpoints):
    @operation(
        "list_variables",
        "List variables of the workspace",
        permission=Permission.VIEW,
        query=PageQuery,
        answers={200: page_of(VariableSerializer)},
        shows=page_example(VARIABLE),
    )
    def get(self, request: Request, workspace: str) -> Response:
        """What every job has; the job, its workflow, its node or the run may say otherwise."""
        rows = self.visible(Variable.objects.select_related("changed_by"))
        return self.page(rows, VariableSerializer)


class VariableEndpoint(VariableEndpoints):
    @operation(
        "get_variable",
        "Get a variable of the workspace",
        permission=Permission.VIEW,
        answers={200: VariableSerializer},
        shows=VARIABLE,
    )
    def get(self, request: Request, workspace: str, variable: str) -> Response:
        rows = self.visible(Variable.objects.select_related("changed_by"))
        row = self.one(rows, "variable", name=variable)
        return Response(VariableSerializer(row).data)

    @operation(
        "set_variable",
        "Set a variable of the workspace",
        permission=Permission.EDIT_VARIABLE,
        body=VariableSetSerializer,
        answers={200: VariableSerializer},
        example={"value": "eu"},
        shows=VARIABLE,
    )
    def put(self, request: Request, workspace: str, variable: str) -> Response:
        """Makes it or changes it. The name is one that every shell takes for a variable."""
        made = set_variable(self.workspace, variable, self.body()["value"], user=request.user)
        return Response(VariableSerializer(made).data)

    @operation(
        "delete_variable",
        "Delete a variable of the workspace",
        permission=Permission.EDIT_VARIABLE,
        answers={204: None},
    )
    def delete(self, request: Request, workspace: str, variable: str) -> Response:
        """Refused while another variable, a published job or workflow uses it."""
        delete_variable(self.workspace, variable)
        return Response(status=204)


# --- holds ----------------------------------------------------------------------------------


class HoldSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    what = serializers.ChoiceField(choices=["workspace", "queue", "tag"])
    name = serializers.CharField(help_text="Of the workspace or the queue; or the tag.")
    reason = serializers.CharField(allow_blank=True)
    created_by = serializers.CharField(source="created_by.username", allow_null=True)
    created_at = serializers.DateTimeField()
    released_by = serializers.CharField(source="released_by.username", allow_null=True)
    released_at = serializers.DateTimeField(allow_null=True, help_text="Null: it stands.")
    missed = serializers.ChoiceField(
        choices=Missed, allow_blank=True, help_text="As the release said; empty while it stands."
    )


class HoldCreateSerializer(Strict):
    what = serializers.ChoiceField(choices=["workspace", "queue", "tag"])
    name = Text(
        max_length=129,
        required=False,
        help_text="Of the queue; or the tag, `key=value` or `key` for any value. None for the "
        "workspace.",
    )
    reason = Text(max_length=200, default="", allow_blank=True)


class HoldReleaseSerializer(Strict):
    missed = serializers.ChoiceField(
        choices=[each.value for each in Missed],
        default=Missed.LATEST.value,
        help_text="Which of the cycles that fell due while it stood are run.",
    )


class HoldQuery(PageQuery):
    standing = serializers.BooleanField(
        required=False, help_text="Only those that stand, or only those that were released."
    )


HOLD = {
    "id": 7,
    "what": "queue",
    "name": "nightly",
    "reason": "The warehouse is full.",
    "created_by": "maya",
    "created_at": "2025-11-20T09:00:00Z",
    "released_by": None,
    "released_at": None,
    "missed": "",
}


class HoldEndpoints(Endpoint):
    tag = "Holds"
    places = {"hold": Place("Id of the hold.", "7")}

    def holds(self) -> InWorkspaceQuerySet:
        rows: InWorkspaceQuerySet = self.visible(WorkspaceHold.objects.all())
        return rows.select_related("workspace", "queue", "created_by", "released_by")

    def hold(self, pk: int) -> WorkspaceHold:
        row: WorkspaceHold = self.one(self.holds(), "hold", pk=pk)
        return row


class HoldsEndpoint(HoldEndpoints):
    @operation(
        "list_holds",
        "List holds",
        permission=Permission.VIEW,
        query=HoldQuery,
        answers={200: page_of(HoldSerializer)},
        shows=page_example(HOLD),
    )
    def get(self, request: Request, workspace: str) -> Response:
        """Those that were released too: who held what, since when, why, and until when."""
        query, rows = self.query, self.holds()
        if "standing" in query:
            rows = rows.filter(released_at__isnull=query["standing"])
        return self.page(rows, HoldSerializer)

    @operation(
        "create_hold",
        "Hold a workspace, a queue or a tag",
        permission=Permission.OPERATE,
        scope=TokenScope.RUN,
        body=HoldCreateSerializer,
        answers={201: HoldSerializer},
        example={"what": "queue", "name": "nightly", "reason": "The warehouse is full."},
        shows=HOLD,
    )
    def post(self, request: Request, workspace: str) -> Response:
        """Nothing new starts, what runs goes on, and every switch stays as it is. Once it is
        answered nothing starts any more, not even what was being started. A tag is of workflows:
        their runs are held, those that are launched later too."""
        data = self.body()
        what, name = data["what"], data.get("name")
        if (name is None) != (what == "workspace") or name == "":
            takes = "takes no name" if what == "workspace" else f"give the {what}'s name"
            raise Invalid(f"a hold on a {what}: {takes}", "name")
        made = hold(
            self.workspace,
            queue=queue_named(self.workspace, name, "name") if what == "queue" else None,
            tag=name or "" if what == "tag" else "",
            reason=data["reason"],
            user=request.user,
        )
        return Response(HoldSerializer(self.hold(made.pk)).data, status=201)


class HoldEndpoint(HoldEndpoints):
    @operation(
        "get_hold",
        "Get a hold",
        permission=Permission.VIEW,
        answers={200: HoldSerializer},
        shows=HOLD,
    )
    def get(self, request: Request, workspace: str, hold: int) -> Response:
        return Response(HoldSerializer(self.hold(hold)).data)


class HoldReleaseEndpoint(HoldEndpoints):
    @operation(
        "release_hold",
        "Release a hold",
        permission=Permission.OPERATE,
        scope=TokenScope.RUN,
        body=HoldReleaseSerializer,
        answers={200: HoldSerializer},
        example={"missed": "latest"},
        shows={
            **HOLD,
            "released_by": "maya",
            "released_at": "2025-11-20T11:30:00Z",
            "missed": "latest",
        },
    )
    def post(self, request: Request, workspace: str, hold: int) -> Response:
        """What waits goes on, unless another hold stands on it."""
        row = self.hold(hold)
        release(row, missed=Missed(self.body()["missed"]), user=request.user)
        return Response(HoldSerializer(self.hold(hold)).data)
