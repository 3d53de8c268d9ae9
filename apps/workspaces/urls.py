from django.urls import path

from apps.workspaces import views

app_name = "workspaces"
urlpatterns = [
    path("", views.home, name="home"),
    path("workspaces/", views.workspaces, name="list"),
    path("workspaces/create/", views.create, name="create"),
    path("workspaces/switcher/", views.switcher, name="switcher"),
    path("w/<str:workspace>/queues/", views.queues, name="queues"),
    path("w/<str:workspace>/queues/create/", views.queue_create, name="queue-create"),
    path("w/<str:workspace>/queues/<int:pk>/", views.queue, name="queue"),
    path("w/<str:workspace>/queues/<int:pk>/line/", views.line, name="line"),
    path("w/<str:workspace>/queues/<int:pk>/delete/", views.queue_delete, name="queue-delete"),
    path("w/<str:workspace>/secrets/", views.secrets, name="secrets"),
    path("w/<str:workspace>/secrets/create/", views.secret_create, name="secret-create"),
    path("w/<str:workspace>/secrets/<int:pk>/", views.secret, name="secret"),
    path("w/<str:workspace>/secrets/<int:pk>/delete/", views.secret_delete, name="secret-delete"),
    path("w/<str:workspace>/variables/", views.variables, name="variables"),
    path("w/<str:workspace>/variables/create/", views.variable_create, name="variable-create"),
    path("w/<str:workspace>/variables/<int:pk>/", views.variable, name="variable"),
    path(
        "w/<str:workspace>/variables/<int:pk>/delete/",
        views.variable_delete,
        name="variable-delete",
    ),
    path("w/<str:workspace>/holds/create/", views.hold_create, name="hold-create"),
    path("w/<str:workspace>/holds/<int:pk>/release/", views.hold_release, name="hold-release"),
]
