from django.urls import path

from apps.runs import backfill_pages, views

app_name = "runs"
urlpatterns = [
    path("healthz", views.healthz, name="healthz"),
    path("w/<str:workspace>/backfills/", backfill_pages.backfills, name="backfills"),
    path("w/<str:workspace>/backfills/<int:pk>/", backfill_pages.backfill, name="backfill"),
    path(
        "w/<str:workspace>/backfills/<int:pk>/pause/", backfill_pages.pause, name="backfill-pause"
    ),
    path(
        "w/<str:workspace>/backfills/<int:pk>/resume/",
        backfill_pages.resume,
        name="backfill-resume",
    ),
    path(
        "w/<str:workspace>/backfills/<int:pk>/cancel/",
        backfill_pages.cancel,
        name="backfill-cancel",
    ),
    path("w/<str:workspace>/runs/", views.runs, name="list"),
    path("w/<str:workspace>/runs/<int:pk>/", views.run, name="run"),
    path("w/<str:workspace>/runs/<int:pk>/pause/", views.pause, name="pause"),
    path("w/<str:workspace>/runs/<int:pk>/resume/", views.resume, name="resume"),
    path("w/<str:workspace>/runs/<int:pk>/stop/", views.stop, name="stop"),
    path("w/<str:workspace>/runs/<int:pk>/rerun/", views.rerun, name="rerun"),
    path("w/<str:workspace>/runs/<int:pk>/rerun-failed/", views.rerun_rest, name="rerun-failed"),
    path("w/<str:workspace>/runs/<int:pk>/rerun-anew/", views.rerun_failed_anew, name="rerun-anew"),
    path("w/<str:workspace>/runs/<int:pk>/nodes/<int:node>/", views.node, name="node"),
    path("w/<str:workspace>/runs/<int:pk>/nodes/<int:node>/stop/", views.stop_one, name="stop-one"),
    path(
        "w/<str:workspace>/runs/<int:pk>/nodes/<int:node>/success/", views.success, name="success"
    ),
    path(
        "w/<str:workspace>/runs/<int:pk>/nodes/<int:node>/rerun/",
        views.rerun_one,
        name="rerun-one",
    ),
    path("w/<str:workspace>/runs/<int:pk>/nodes/<int:node>/log/", views.log, name="log"),
    path(
        "w/<str:workspace>/runs/<int:pk>/nodes/<int:node>/lines/", views.log_lines, name="log-lines"
    ),
    path(
        "w/<str:workspace>/runs/<int:pk>/nodes/<int:node>/search/",
        views.log_search,
        name="log-search",
    ),
    path("w/<str:workspace>/runs/<int:pk>/nodes/<int:node>/stream/", views.stream, name="stream"),
    path("w/<str:workspace>/runs/<int:pk>/nodes/<int:node>/raw/", views.raw_log, name="raw-log"),
    path("w/<str:workspace>/runs/<int:pk>/outputs/<int:output>/", views.output, name="output"),
]
