"""Wiring only. Loads the Celery app with the settings, so that `controlplane` itself stays empty
and the pure core never drags Django or Celery in."""

from controlplane.config.celery import app as celery_app

__all__ = ["celery_app"]
