from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "apps.notifications"

    def ready(self) -> None:
        # Fills the registries of `runs`: from here on failures open incidents, and workers look
        # for what is to be told where no beat does.
        from apps.notifications.services import heartbeats, incidents, tick  # noqa: F401
