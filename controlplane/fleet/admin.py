"""Back office of the fleet. What people state about a site may be changed, through the service that
checks and records it; what agents report, and their keys, may only be seen."""

from typing import Any

from django.contrib import admin
from django.forms import CharField, ModelForm, ValidationError
from django.http import HttpRequest
from django.utils.timezone import now as current_time

from controlplane.audit.admin import ReadOnly
from controlplane.fleet.models import (
    Accelerator,
    Agent,
    EnrolmentToken,
    Generation,
    MaintenanceWindow,
    Server,
    Site,
    validate_zone,
)
from controlplane.fleet.services import create_site, update_site


class SiteForm(ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    timezone = CharField(max_length=64, required=False, initial="UTC", validators=[validate_zone])

    def clean_labels(self) -> dict[str, str]:
        """What the service would refuse, said at the field."""
        labels = self.cleaned_data["labels"] or {}
        if not isinstance(labels, dict) or not all(isinstance(v, str) for v in labels.values()):
            raise ValidationError('Must map names to values, as {"ring": "0"}.')
        return labels

    def clean_timezone(self) -> str:
        return self.cleaned_data["timezone"] or "UTC"


@admin.register(Site)
class SiteAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable at run time
    """A site is for ever: reports, deployments and events use its name. Retiring it has its own
    verb, which asks why."""

    form = SiteForm
    list_display = ("name", "tier", "region", "created_at", "retired_at")
    list_filter = ("tier", "region")
    search_fields = ("name", "region")

    def get_readonly_fields(self, request: HttpRequest, obj: Site | None = None) -> tuple[str, ...]:
        never = ("created_at", "retired_at")
        return never if obj is None else ("name", *never)

    def has_change_permission(self, request: HttpRequest, obj: Site | None = None) -> bool:
        retired = obj is not None and obj.retired_at is not None
        return not retired and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Site, form: Any, change: bool) -> None:
        """The service writes the row, its generation and the event together."""
        actor, now = f"user:{request.user.get_username()}", current_time()
        if change:
            fields = {key: form.cleaned_data[key] for key in form.changed_data}
            update_site(site=Site.objects.get(pk=obj.pk), fields=fields, actor=actor, now=now)
        else:
            obj.pk = create_site(fields=form.cleaned_data, actor=actor, now=now).pk


@admin.register(MaintenanceWindow)
class MaintenanceWindowAdmin(ReadOnly):
    list_display = ("name", "kind", "days", "start", "minutes", "timezone")
    list_filter = ("kind",)
    search_fields = ("name",)


@admin.register(Agent)
class AgentAdmin(ReadOnly):
    list_display = ("site", "hostname", "agent_version", "enrolled_at", "revoked_at")
    list_filter = ("agent_version",)
    list_select_related = ("site",)
    search_fields = ("site__name", "hostname")
    exclude = ("public_key",)


@admin.register(EnrolmentToken)
class EnrolmentTokenAdmin(ReadOnly):
    list_display = ("site", "created_at", "expires_at", "used_at")
    list_select_related = ("site",)
    search_fields = ("site__name",)
    exclude = ("digest",)


@admin.register(Server)
class ServerAdmin(ReadOnly):
    list_display = ("hostname", "site", "triton_version", "triton_live", "reported_at")
    list_filter = ("triton_version", "triton_live")
    list_select_related = ("site",)
    search_fields = ("hostname", "site__name")


@admin.register(Accelerator)
class AcceleratorAdmin(ReadOnly):
    list_display = ("name", "server", "memory_bytes", "driver_version")
    list_filter = ("name",)
    list_select_related = ("server__site",)
    search_fields = ("name", "uuid", "server__hostname")


@admin.register(Generation)
class GenerationAdmin(ReadOnly):
    list_display = ("site", "epoch", "generation")
    list_select_related = ("site",)
    search_fields = ("site__name",)
