"""Back office of people and of the tokens of their machines."""

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as StockUserAdmin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.timezone import now as current_time

from controlplane.accounts.models import ApiToken, TrustedPublisher, User
from controlplane.accounts.publishers import revoke_publisher
from controlplane.accounts.services import revoke_api_token
from controlplane.audit.admin import ReadOnly


@admin.register(User)
class UserAdmin(StockUserAdmin):  # type: ignore[type-arg]  # not subscriptable at run time
    """People are switched off, not deleted: events and tokens name them."""

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnly):
    """Tokens are made where their secret can be shown once; here they are seen and revoked."""

    list_display = (
        "name", "hint", "user", "scopes", "model_names", "exchanged_for", "created_at",
        "expires_at", "last_used_at", "revoked_at",
    )  # fmt: skip
    list_filter = ("user",)
    search_fields = ("name", "hint", "user__username")
    fields = list_display
    actions = ("revoke",)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_apitoken")

    @admin.action(description="Revoke the selected tokens", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        actor = f"user:{request.user.get_username()}"
        for token in queryset:
            revoke_api_token(token=token, actor=actor, now=current_time())
        messages.success(request, "The selected tokens are revoked.")


@admin.register(TrustedPublisher)
class TrustedPublisherAdmin(ReadOnly):
    """CI jobs that are trusted; they are named through the API, which holds them to its rules."""

    list_display = (
        "name", "issuer", "audience", "claims", "scopes", "model_names", "last_used_at",
        "revoked_at",
    )  # fmt: skip
    search_fields = ("name", "issuer")
    fields = (*list_display, "user", "minutes", "created_by", "created_at")
    actions = ("revoke",)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_trustedpublisher")

    @admin.action(description="Trust the selected publishers no more", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[TrustedPublisher]) -> None:
        actor = f"user:{request.user.get_username()}"
        for publisher in queryset:
            revoke_publisher(publisher=publisher, reason="", actor=actor, now=current_time())
        messages.success(request, "The selected publishers are trusted no more.")
