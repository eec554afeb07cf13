"""Back office of what was measured: whose sums there are, and how far they go. The sums themselves
have no page: there are millions."""

from django.contrib import admin

from controlplane.audit.admin import ReadOnly
from controlplane.telemetry.models import AcceleratorSeries, ModelSeries, ReadingSeries, SiteFeed


@admin.register(SiteFeed)
class SiteFeedAdmin(ReadOnly):
    list_display = ("site", "measured_until", "received_at", "left_out")
    list_select_related = ("site",)
    search_fields = ("site__name",)


@admin.register(ModelSeries)
class ModelSeriesAdmin(ReadOnly):
    list_display = ("model", "version", "site", "server", "bounds", "created_at")
    list_select_related = ("site",)
    search_fields = ("model", "site__name")
    show_full_result_count = False


@admin.register(AcceleratorSeries)
class AcceleratorSeriesAdmin(ReadOnly):
    list_display = ("uuid", "site", "created_at")
    list_select_related = ("site",)
    search_fields = ("uuid", "site__name")
    show_full_result_count = False


@admin.register(ReadingSeries)
class ReadingSeriesAdmin(ReadOnly):
    list_display = ("figure", "site", "created_at")
    list_filter = ("figure",)
    list_select_related = ("site",)
    search_fields = ("site__name",)
