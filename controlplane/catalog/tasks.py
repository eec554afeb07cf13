"""Celery's doors to the work on chunk maps and on what comes from registries. They hold no rule and
may run any number of times."""

import time

from celery import shared_task
from django.utils import timezone

from controlplane.catalog.chunk_maps import make_chunk_maps
from controlplane.catalog.registry.doorbell import REGISTRY_TASK
from controlplane.catalog.registry.turn import look_at_registries
from controlplane.catalog.uploads import drop_stale_uploads

CHUNK_MAPS_TASK = "catalog.make_chunk_maps"
# A turn: what a killed worker costs, and how long other files wait for theirs.
_TURN_SECONDS = 20.0


@shared_task(name=CHUNK_MAPS_TASK)
def make_maps() -> None:
    end = time.monotonic() + _TURN_SECONDS
    make_chunk_maps(now=timezone.now(), keep_going=lambda: time.monotonic() < end)


@shared_task(name=REGISTRY_TASK)
def look() -> None:
    end = time.monotonic() + _TURN_SECONDS
    look_at_registries(now=timezone.now(), keep_going=lambda: time.monotonic() < end)


@shared_task(name="catalog.drop_stale_uploads")
def drop_stale() -> None:
    drop_stale_uploads(now=timezone.now())
