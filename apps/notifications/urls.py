from django.urls import path

from apps.notifications import views

app_name = "notifications"
urlpatterns = [
    path("w/<str:workspace>/notifications/", views.notifications, name="list"),
    path("w/<str:workspace>/notifications/test/", views.test, name="test"),
    path("w/<str:workspace>/notifications/mails/", views.mails, name="mails"),
    path("w/<str:workspace>/notifications/mails/<int:pk>/", views.mail, name="mail"),
    path("w/<str:workspace>/notifications/rules/", views.rules, name="rules"),
    path("w/<str:workspace>/notifications/rules/create/", views.rule_create, name="rule-create"),
    path("w/<str:workspace>/notifications/rules/<int:pk>/", views.rule, name="rule"),
    path(
        "w/<str:workspace>/notifications/rules/<int:pk>/delete/",
        views.rule_delete,
        name="rule-delete",
    ),
    path(
        "w/<str:workspace>/notifications/incidents/<int:pk>/acknowledge/",
        views.acknowledge_one,
        name="acknowledge",
    ),
    path("w/<str:workspace>/workflows/<int:pk>/addresses/", views.addresses, name="addresses"),
]
