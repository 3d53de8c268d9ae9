from django.apps import AppConfig


class NodesConfig(AppConfig):
    name = "apps.nodes"

    def ready(self) -> None:
        # Says before a variable is deleted which jobs would fail without it.
        from apps.nodes.services import variables  # noqa: F401
