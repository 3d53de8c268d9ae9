"""People for tests of pages: a client that is logged in, and the workspaces it belongs to."""

from __future__ import annotations

from django.test import Client

from apps.engine.roles import Role
from apps.workspaces.models import Member, User
from tests.factories import workspace


def user(name: str = "li.wei", role: Role | None = Role.OWNER) -> User:
    """A person with this role in the workspace `default`; None: a stranger to it."""
    person, _ = User.objects.get_or_create(username=name)
    if role is not None:
        Member.objects.update_or_create(
            workspace=workspace(), user=person, defaults={"role": role.value}
        )
    return person


def client_of(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


def member(role: Role | None = Role.OWNER) -> Client:
    """A client logged in as somebody with this role."""
    return client_of(user(f"a {role or 'stranger'}", role))
