from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "apps.notifications"

    def ready(self) -> None:
        # Fills the registry of `runs`: from here on failures open incidents.
        from apps.notifications.services import incidents  # noqa: F401
