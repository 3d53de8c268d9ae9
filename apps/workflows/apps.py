from django.apps import AppConfig


class WorkflowsConfig(AppConfig):
    name = "apps.workflows"

    def ready(self) -> None:
        # Says before a job is published which workflows would fail with it.
        from apps.workflows.services import publishing  # noqa: F401
