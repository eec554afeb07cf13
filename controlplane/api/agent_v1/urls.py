"""Paths of `/agent/v1/`."""

from django.urls import path, re_path

from controlplane.api.agent_v1 import blobs, views

urlpatterns = [
    path("enrol", views.enrol),
    path("challenge", views.challenge),
    path("session", views.session),
    path("desired", views.desired),
    path("report", views.report),
    path("lease", views.lease),
    re_path("^blobs/(?P<sha256>[0-9a-f]{64})$", blobs.blob),
]
