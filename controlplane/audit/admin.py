"""Back office of the event log. What happened cannot be changed, here or anywhere."""

from django.contrib import admin
from django.http import HttpRequest

from controlplane.audit.models import Delivery, Event, Webhook


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]  # not subscriptable at run time
    """Shows rows that only services may write: adding, changing and deleting are not offered."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Event)
class EventAdmin(ReadOnly):
    list_display = ("at", "actor", "action", "object_type", "object_id", "reason")
    list_filter = ("object_type", "action")
    search_fields = ("actor", "object_id", "reason", "request_id")
    date_hierarchy = "at"
    show_full_result_count = False


@admin.register(Webhook)
class WebhookAdmin(ReadOnly):
    list_display = ("name", "active", "failures", "disabled_reason", "created_by", "created_at")
    list_filter = ("active",)
    exclude = ("secret", "previous_secret")


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly):
    list_display = ("event", "webhook", "state", "attempts", "next_attempt_at", "last_error")
    list_filter = ("state", "webhook")
    list_select_related = ("event", "webhook")
    show_full_result_count = False
