import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
_pages = get_asgi_application()

# Django has to be set up before models are imported.
from apps.workspaces.uploads import BodyLimit  # noqa: E402

application = BodyLimit(_pages)
