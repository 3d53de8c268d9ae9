from django.apps import AppConfig


class RunsConfig(AppConfig):
    name = "apps.runs"

    def ready(self) -> None:
        # Whoever ends a run of a backfill lets the next cycles start.
        from apps.runs.services import feeding  # noqa: F401
