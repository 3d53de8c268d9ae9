from django.urls import path

from apps.nodes import views

app_name = "nodes"
urlpatterns = [
    path("w/<str:workspace>/jobs/", views.jobs, name="jobs"),
    path("w/<str:workspace>/jobs/create/", views.job_create, name="job-create"),
    path("w/<str:workspace>/jobs/<int:pk>/", views.job, name="job"),
    path("w/<str:workspace>/jobs/<int:pk>/publish/", views.job_publish, name="job-publish"),
    path("w/<str:workspace>/jobs/<int:pk>/move/", views.job_move, name="job-move"),
    path("w/<str:workspace>/jobs/<int:pk>/delete/", views.job_delete, name="job-delete"),
    path("w/<str:workspace>/jobs/<int:pk>/versions/", views.job_versions, name="job-versions"),
    path(
        "w/<str:workspace>/jobs/<int:pk>/versions/<int:number>/",
        views.job_version,
        name="job-version",
    ),
    path("w/<str:workspace>/jobs/<int:pk>/runs/", views.job_runs, name="job-runs"),
    path("w/<str:workspace>/files/", views.files, name="files"),
    path("w/<str:workspace>/files/upload/", views.file_upload, name="file-upload"),
    path("w/<str:workspace>/files/<int:pk>/", views.file, name="file"),
    path("w/<str:workspace>/files/<int:pk>/delete/", views.file_delete, name="file-delete"),
]
