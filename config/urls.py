"""Every address. Each app names whole paths; what lies in a workspace is below /w/<name>/."""

from __future__ import annotations

from django.urls import include, path

from apps.workspaces.views import LogIn, log_out

urlpatterns = [
    path("login/", LogIn.as_view(), name="login"),
    path("logout/", log_out, name="logout"),
    path("api/", include("config.api_urls")),
    path("", include("apps.workspaces.urls")),
    path("", include("apps.nodes.urls")),
    path("", include("apps.workflows.urls")),
    path("", include("apps.runs.urls")),
    path("", include("apps.notifications.urls")),
]
