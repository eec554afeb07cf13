"""Which plane answers which path."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.defaults import page_not_found

from controlplane.api import health
from controlplane.api.errors import unrouted

urlpatterns = [
    path("agent/v1/", include("controlplane.api.agent_v1.urls")),
    path("api/v1/", include("controlplane.api.v1.urls")),
    path("healthz/live", health.live),
    path("healthz/ready", health.ready),
    path("healthz/engine", health.engine),
    path("admin/", admin.site.urls),
    path("", include("controlplane.web.urls")),
]


def handler404(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Programs get a problem document, people a page."""
    if request.path.startswith(("/api/", "/agent/")):
        return unrouted(request, exception)
    return page_not_found(request, exception)
