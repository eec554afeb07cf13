"""Paths of `/agent/v1/`."""

from django.urls import path, re_path

from controlplane.api.agent_v1 import blobs, chunks, views

urlpatterns = [
    path("enrol", views.enrol),
    path("challenge", views.challenge),
    path("session", views.session),
    path("rotate-key", views.rotate),
    path("desired", views.desired),
    path("report", views.report),
    path("measurements", views.measurements),
    path("lease", views.lease),
    re_path("^blobs/(?P<sha256>[0-9a-f]{64})$", blobs.blob),
    re_path("^blobs/(?P<sha256>[0-9a-f]{64})/chunks$", chunks.chunks),
]
