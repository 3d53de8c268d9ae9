from django.urls import path

from apps.workflows import views

app_name = "workflows"
urlpatterns = [
    path("w/<str:workspace>/", views.start, name="start"),
    path("w/<str:workspace>/workflows/", views.workflows, name="list"),
    path("w/<str:workspace>/workflows/create/", views.create, name="create"),
    path(
        "w/<str:workspace>/workflows/schedule-preview/",
        views.schedule_preview,
        name="schedule-preview",
    ),
    path("w/<str:workspace>/workflows/<int:pk>/", views.workflow, name="workflow"),
    path("w/<str:workspace>/workflows/<int:pk>/node/", views.node, name="node"),
    path("w/<str:workspace>/workflows/<int:pk>/remove/", views.node_remove, name="node-remove"),
    path("w/<str:workspace>/workflows/<int:pk>/settings/", views.settings, name="settings"),
    path("w/<str:workspace>/workflows/<int:pk>/tags/", views.tags, name="tags"),
    path("w/<str:workspace>/workflows/<int:pk>/ownership/", views.ownership, name="ownership"),
    path("w/<str:workspace>/workflows/<int:pk>/publish/", views.publish, name="publish"),
    path("w/<str:workspace>/workflows/<int:pk>/versions/", views.versions, name="versions"),
    path(
        "w/<str:workspace>/workflows/<int:pk>/versions/<int:number>/",
        views.version,
        name="version",
    ),
    path("w/<str:workspace>/workflows/<int:pk>/runs/", views.runs, name="runs"),
    path("w/<str:workspace>/workflows/<int:pk>/schedule/", views.schedule, name="schedule"),
    path("w/<str:workspace>/workflows/<int:pk>/switch/", views.switch, name="switch"),
    path("w/<str:workspace>/workflows/<int:pk>/run/", views.run, name="run"),
    path("w/<str:workspace>/workflows/<int:pk>/dry-run/", views.dry, name="dry-run"),
    path("w/<str:workspace>/workflows/<int:pk>/delete/", views.delete, name="delete"),
]
