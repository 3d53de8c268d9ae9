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
    path("w/<str:workspace>/notifications/heartbeat/", views.heartbeat, name="heartbeat"),
    path(
        "w/<str:workspace>/notifications/heartbeat/delete/",
        views.heartbeat_delete,
        name="heartbeat-delete",
    ),
    path("w/<str:workspace>/notifications/channels/", views.channels, name="channels"),
    path(
        "w/<str:workspace>/notifications/channels/create/",
        views.channel_create,
        name="channel-create",
    ),
    path("w/<str:workspace>/notifications/channels/<int:pk>/", views.channel, name="channel"),
    path(
        "w/<str:workspace>/notifications/channels/<int:pk>/delete/",
        views.channel_delete,
        name="channel-delete",
    ),
    path(
        "w/<str:workspace>/notifications/channels/<int:pk>/test/",
        views.channel_test,
        name="channel-test",
    ),
    path(
        "w/<str:workspace>/notifications/incidents/<int:pk>/acknowledge/",
        views.acknowledge_one,
        name="acknowledge",
    ),
    path("w/<str:workspace>/workflows/<int:pk>/silence/", views.silence_one, name="silence"),
    path("w/<str:workspace>/workflows/<int:pk>/unsilence/", views.unsilence_one, name="unsilence"),
    path("w/<str:workspace>/workflows/<int:pk>/watch/", views.watch, name="watch"),
    path("w/<str:workspace>/workflows/<int:pk>/addresses/", views.addresses, name="addresses"),
]
