"""One turn of the worker of imports: look at the registry, bring in what was asked for, move the
channels that follow, write back what became of it. Each part goes on from its rows, and none keeps
the others from their turn."""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from django.conf import settings

from controlplane.catalog.registry import RegistrySource
from controlplane.catalog.registry.conversion import Converter
from controlplane.catalog.registry.fetching import KeepGoing
from controlplane.catalog.registry.importing import Importer
from controlplane.catalog.registry.reconcile import move_followers, reconcile_links
from controlplane.catalog.registry.sources import converter, import_dir, is_set_up, mlflow_source
from controlplane.catalog.registry.telling import note_states, tell_registry
from controlplane.domain.errors import Conflict

_log = structlog.get_logger(__name__)


def look_at_registries(
    *,
    now: datetime,
    keep_going: KeepGoing,
    source: RegistrySource | None = None,
    converting: Converter | None = None,
) -> None:
    """Does nothing where no registry is set up. `source` and `converting` are those of the settings
    unless they are given."""
    if source is None:
        if not is_set_up():
            return
        try:
            source = mlflow_source()
        except Conflict as error:
            _log.error("registry_settings_wrong", reason=error.detail)
            return
    every = timedelta(seconds=settings.WAYPOST_MLFLOW_RECONCILE_SECONDS)
    importer = Importer(source=source, converter=converting or converter(), folder=import_dir())
    parts: tuple[Callable[[], None], ...] = (
        lambda: reconcile_links(source=source, every=every, now=now, keep_going=keep_going),
        importer.forget_strangers,
        lambda: importer.run(now=now, keep_going=keep_going),
        lambda: move_followers(now=now),
        note_states,
        lambda: tell_registry(source=source, now=now, keep_going=keep_going),
    )
    for part in parts:
        try:
            part()
        except Exception:
            _log.exception("registry_turn_failed")
