"""Paths of `/api/v1/`."""

from django.urls import path, register_converter
from drf_spectacular.views import SpectacularAPIView

from controlplane.api.v1 import catalog, fleet, rollouts


class Sha256Converter:
    regex = "[0-9a-f]{64}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(Sha256Converter, "sha256")

VERSION = "models/<str:name>/versions/<int:number>"
urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("models", catalog.Models.as_view()),
    path("models/<str:name>", catalog.ModelDetail.as_view()),
    path("models/<str:name>/versions", catalog.Versions.as_view()),
    path(VERSION, catalog.VersionDetail.as_view()),
    path(f"{VERSION}/blobs/<sha256:sha256>", catalog.VersionBlob.as_view()),
    path(f"{VERSION}/finalise", catalog.FinaliseVersion.as_view()),
    path("sites", fleet.Sites.as_view()),
    path("sites/<str:name>", fleet.SiteDetail.as_view()),
    path("sites/<str:name>/enrolment-tokens", fleet.EnrolmentTokens.as_view()),
    path("rollouts", rollouts.Rollouts.as_view()),
    path("rollouts/<int:rollout_id>", rollouts.RolloutDetail.as_view(), name="api-rollout"),
    path("rollouts/<int:rollout_id>/pause", rollouts.PauseRollout.as_view()),
    path("rollouts/<int:rollout_id>/resume", rollouts.ResumeRollout.as_view()),
    path("rollouts/<int:rollout_id>/abort", rollouts.AbortRollout.as_view()),
    path("rollouts/<int:rollout_id>/rollback", rollouts.RollBackRollout.as_view()),
]
