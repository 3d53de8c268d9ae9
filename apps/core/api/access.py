"""Who asks, and what their token is good for."""

from __future__ import annotations

from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from apps.engine.roles import Permission
from apps.workspaces.models import ApiToken, TokenScope, User
from apps.workspaces.services import token_in_use

#: Each scope includes those before it.
LADDER = (TokenScope.READ, TokenScope.RUN, TokenScope.EDIT, TokenScope.ADMIN)

#: What a token must be good for, where its user needs this permission.
SCOPE_OF: dict[Permission, TokenScope] = {
    Permission.VIEW: TokenScope.READ,
    Permission.RUN: TokenScope.RUN,
    Permission.OPERATE: TokenScope.RUN,
    Permission.EDIT_JOB: TokenScope.EDIT,
    Permission.PUBLISH_JOB: TokenScope.EDIT,
    Permission.EDIT_FILE: TokenScope.EDIT,
    Permission.EDIT_WORKFLOW: TokenScope.EDIT,
    Permission.PUBLISH_WORKFLOW: TokenScope.EDIT,
    Permission.EDIT_VARIABLE: TokenScope.EDIT,
    Permission.EDIT_QUEUE: TokenScope.ADMIN,
    Permission.EDIT_MEMBERS: TokenScope.ADMIN,
    Permission.EDIT_SECRET: TokenScope.ADMIN,
}


def covers(token: ApiToken, scope: TokenScope) -> bool:
    return LADDER.index(TokenScope(token.scope)) >= LADDER.index(scope)


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`. Another scheme, as a proxy may add, is not ours to judge."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, clear = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        token = token_in_use(clear.strip())
        if token is None:
            raise exceptions.AuthenticationFailed(
                "the token is unknown or has expired; get a new one by POST /api/v1/token"
            )
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="runyard"'
