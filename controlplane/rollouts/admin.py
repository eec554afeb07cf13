"""Back office of rollouts. Seen here, steered in the console: a row changed by hand would be a
state that no decision led to."""

from django.contrib import admin

from controlplane.audit.admin import ReadOnly
from controlplane.rollouts.models import Deployment, EngineBeat, Rollout, SiteModel, Stage


@admin.register(Rollout)
class RolloutAdmin(ReadOnly):
    list_display = ("id", "version", "state", "reason", "created_by", "created_at")
    list_filter = ("state", "model")
    list_select_related = ("version__model",)
    search_fields = ("model__name", "created_by", "note")


@admin.register(Stage)
class StageAdmin(ReadOnly):
    list_display = ("rollout", "index", "name", "state", "soaked_seconds", "soak_seconds")
    list_filter = ("state",)
    list_select_related = ("rollout__version__model",)


@admin.register(Deployment)
class DeploymentAdmin(ReadOnly):
    list_display = ("rollout_id", "site", "kind", "state", "generation", "reason")
    list_filter = ("kind", "state")
    list_select_related = ("site",)
    search_fields = ("site__name",)


@admin.register(SiteModel)
class SiteModelAdmin(ReadOnly):
    list_display = (
        "site", "model", "desired", "generation", "reported_phase", "reported_serving",
        "reported_at",
    )  # fmt: skip
    list_filter = ("model", "reported_phase")
    list_select_related = ("site", "model", "desired__model")
    search_fields = ("site__name", "model__name")


@admin.register(EngineBeat)
class EngineBeatAdmin(ReadOnly):
    list_display = ("name", "at")
