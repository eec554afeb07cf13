"""Back office of the catalogue: a version never changes, so there is nothing to edit but words."""

from django.contrib import admin
from django.http import HttpRequest

from controlplane.audit.admin import ReadOnly
from controlplane.catalog.models import Blob, ChunkMap, Model, Version, VersionFile


@admin.register(Model)
class ModelAdmin(ReadOnly):
    list_display = ("name", "description", "created_at")
    search_fields = ("name",)


class FileInline(admin.TabularInline):  # type: ignore[type-arg]  # not subscriptable at run time
    model = VersionFile
    extra = 0

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Version)
class VersionAdmin(ReadOnly):
    list_display = ("model", "number", "state", "size_bytes", "created_by", "created_at")
    list_filter = ("state", "model")
    list_select_related = ("model",)
    search_fields = ("model__name", "manifest_digest", "created_by")
    inlines = (FileInline,)


@admin.register(Blob)
class BlobAdmin(ReadOnly):
    list_display = ("sha256", "size_bytes", "stored_at")
    search_fields = ("sha256",)


@admin.register(ChunkMap)
class ChunkMapAdmin(ReadOnly):
    list_display = ("sha256", "size_bytes", "state", "reason", "patched", "claimed_until")
    list_filter = ("state",)
    search_fields = ("sha256",)
    exclude = ("chunks", "document")
