"""Settings, URLs and entry points. Celery's app is made here, so that every process rings
the same broker."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
