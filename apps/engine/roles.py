"""Who may do what in a workspace: one table, used by pages, REST and every other door.

Source of the four roles and their rights: operation-center.md 2.8 (the original's matrix).
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    GUEST = "guest"
    DATA_SCIENCE = "data_science"
    DATA_ENGINEERING = "data_engineering"
    OWNER = "owner"


class Permission(StrEnum):
    VIEW = "workspace.view"  # lists, states, graphs, settings, logs, outputs, queues
    EDIT_JOB = "job.edit"  # drafts of jobs, and running them in development
    PUBLISH_JOB = "job.publish"
    EDIT_FILE = "file.edit"
    EDIT_WORKFLOW = "workflow.edit"
    PUBLISH_WORKFLOW = "workflow.publish"
    RUN = "run.start"  # in production queues
    OPERATE = "run.operate"  # stop, rerun, pause, set to success
    EDIT_QUEUE = "queue.edit"
    EDIT_MEMBERS = "members.edit"
    EDIT_VARIABLE = "variable.edit"  # of the workspace
    EDIT_SECRET = "secret.edit"  # noqa: S105 -- set and delete; nobody reads one


_GUEST = frozenset({Permission.VIEW})
_SCIENCE = _GUEST | {Permission.EDIT_JOB}
_ENGINEERING = _SCIENCE | {
    Permission.PUBLISH_JOB,
    Permission.EDIT_FILE,
    Permission.EDIT_WORKFLOW,
    Permission.PUBLISH_WORKFLOW,
    Permission.EDIT_VARIABLE,
    Permission.RUN,
    Permission.OPERATE,
}
_OWNER = _ENGINEERING | {
    Permission.EDIT_QUEUE,
    Permission.EDIT_MEMBERS,
    Permission.EDIT_SECRET,
}

PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.GUEST: _GUEST,
    Role.DATA_SCIENCE: _SCIENCE,
    Role.DATA_ENGINEERING: _ENGINEERING,
    Role.OWNER: _OWNER,
}


def allows(role: Role | None, permission: Permission) -> bool:
    """Whether a member with this role may; None (not a member) may nothing."""
    return role is not None and permission in PERMISSIONS[role]
