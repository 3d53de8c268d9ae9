"""Variables of a workspace: what every job in it may use as `${name}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django.db import transaction
from django.db.models.functions import Now

from apps.core.errors import Conflict, FieldFault, Invalid, NotFound
from apps.engine.timevars import (
    MAX_VALUE,
    NAME,
    OWN_NAMES,
    definition_faults,
    is_taken,
    names_in,
)
from apps.workspaces.models import User, Variable, Workspace

#: Of one workspace.
MOST = 1_000
#: Users that are named where a variable is not deleted.
_NAMED = 5

UserOfVariables = Callable[[Workspace, str], list[str]]
_users: list[UserOfVariables] = []


def asked_before_deletion(user_of_variables: UserOfVariables) -> UserOfVariables:
    """Have a function say, before a variable is deleted, what would fail without it."""
    _users.append(user_of_variables)
    return user_of_variables


@transaction.atomic
def set_variable(workspace: Workspace, name: str, value: str, *, user: User | None) -> Variable:
    """Make one or change it; runs that start from now on have it. Raises Invalid.

    The value may use the engine's own variables and others of the workspace.
    """
    if not NAME.fullmatch(name) or len(name) > 64:
        raise Invalid(
            f"{name!r} is no name of a variable; use letters, digits and '_', no digit first, "
            "at most 64",
            "name",
        )
    if is_taken(name):
        raise Invalid(f"{name} is set by Runyard; choose another name", "name")
    if "\0" in value:
        raise Invalid("the value holds a NUL character; take it out", "value")
    if len(value.encode()) > MAX_VALUE:
        raise Invalid(f"the value has over {MAX_VALUE:,} bytes; take a shorter one", "value")
    # Under lock: of two that name each other one is told.
    Workspace.objects.select_for_update(no_key=True).get(pk=workspace.pk)
    there = {**variables_of(workspace.pk), name: value}
    if len(there) > MOST:
        raise Invalid(f"a workspace may have {MOST:,} variables; delete one first", "name")
    # Each on its own stands in every job: what is wrong here would fail them all.
    if faults := [why for _, why in definition_faults(there, OWN_NAMES)]:
        raise Invalid([FieldFault("value", fault) for fault in faults])
    row, _ = Variable.objects.update_or_create(
        workspace=workspace,
        name=name,
        defaults={"value": value, "changed_by": user, "changed_at": Now()},
    )
    row.refresh_from_db()
    return row


@transaction.atomic
def delete_variable(workspace: Workspace, name: str) -> None:
    """Raises NotFound; Conflict while something uses it, with what does."""
    Workspace.objects.select_for_update(no_key=True).get(pk=workspace.pk)
    there = variables_of(workspace.pk)
    if name not in there:
        raise NotFound(f"there is no variable {name!r} in this workspace")
    users = sorted(other for other, text in there.items() if name in names_in(text))
    users += [user for asked in _users for user in asked(workspace, name)]
    if users:
        more = f" and {len(users) - _NAMED:,} more" if len(users) > _NAMED else ""
        named = ", ".join(users[:_NAMED])
        raise Conflict(f"variable {name} is used by {named}{more}; take it out there first")
    Variable.objects.filter(workspace=workspace, name=name).delete()


def variables_of(workspace_id: int) -> Mapping[str, str]:
    """Name to text of every variable of a workspace."""
    rows = Variable.objects.filter(workspace=workspace_id).order_by("name")
    return dict(rows.values_list("name", "value"))
