"""Paths of `/api/v1/`."""

from django.urls import path, register_converter
from drf_spectacular.views import SpectacularAPIView

from controlplane.api.v1 import (
    approvals,
    catalog,
    channels,
    fit,
    fleet,
    freezes,
    mlflow_webhook,
    publishers,
    quarantine,
    readings,
    registry,
    rollout_verbs,
    rollouts,
    signatures,
    site_agents,
    site_facts,
    site_waivers,
    strategies,
    tokens,
    uploads,
    webhooks,
    windows,
)


class Sha256Converter:
    regex = "[0-9a-f]{64}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


class PlainNameConverter(Sha256Converter):
    """Of a stage or a gate; what is none is no endpoint."""

    regex = "[a-z0-9][a-z0-9-]{0,39}"


register_converter(Sha256Converter, "sha256")
register_converter(PlainNameConverter, "plain")

VERSION = "models/<str:name>/versions/<int:number>"
BLOB = f"{VERSION}/blobs/<sha256:sha256>"
ROLLOUT = "rollouts/<int:rollout_id>"
SITE_MODEL = "sites/<str:site>/models/<str:model>"
urlpatterns = [
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("models", catalog.Models.as_view()),
    path("models/<str:name>", catalog.ModelDetail.as_view()),
    path("models/<str:name>/channels", channels.Channels.as_view()),
    path("models/<str:name>/channels/<str:channel>", channels.ChannelDetail.as_view()),
    path("models/<str:name>/versions", catalog.Versions.as_view()),
    path(VERSION, catalog.VersionDetail.as_view()),
    path(BLOB, uploads.VersionBlob.as_view()),
    path(f"{BLOB}/multipart", uploads.BlobMultipart.as_view()),
    path(f"{BLOB}/multipart/complete", uploads.CompleteMultipart.as_view()),
    path(f"{BLOB}/multipart/abort", uploads.AbortMultipart.as_view()),
    path(f"{VERSION}/finalise", catalog.FinaliseVersion.as_view()),
    path(f"{VERSION}/fit", fit.VersionFit.as_view()),
    path(f"{VERSION}/approvals", approvals.VersionApprovals.as_view()),
    path(f"{VERSION}/approve", approvals.ApproveVersion.as_view()),
    path(f"{VERSION}/withdraw-approval", approvals.WithdrawApproval.as_view()),
    path(f"{VERSION}/retire", approvals.RetireVersion.as_view()),
    path(f"{VERSION}/unretire", approvals.UnretireVersion.as_view()),
    path(f"{VERSION}/quarantine", quarantine.QuarantineVersion.as_view()),
    path(f"{VERSION}/release", quarantine.ReleaseVersion.as_view()),
    path(f"{VERSION}/signature", signatures.VersionSignature.as_view()),
    path("signing-keys", signatures.SigningKeys.as_view()),
    path("signing-keys/<str:name>/revoke", signatures.RevokeSigningKey.as_view()),
    path("models/<str:name>/registry-links", registry.RegistryLinks.as_view()),
    path("models/<str:name>/registry-links/<int:link_id>", registry.RegistryLinkDetail.as_view()),
    path("models/<str:name>/imports", registry.Imports.as_view()),
    path("models/<str:name>/imports/<int:import_id>", registry.ImportDetail.as_view()),
    path("registries/mlflow/webhook", mlflow_webhook.MlflowWebhook.as_view()),
    path("sites", fleet.Sites.as_view()),
    path("sites/<str:name>", fleet.SiteDetail.as_view()),
    path("sites/<str:name>/enrolment-tokens", fleet.EnrolmentTokens.as_view()),
    path("sites/<str:name>/restore", fleet.RestoreSite.as_view()),
    path("sites/<str:name>/servers", site_facts.SiteServers.as_view()),
    path("sites/<str:name>/measurements", site_facts.SiteMeasurements.as_view()),
    path("sites/<str:name>/readings", readings.SiteReadings.as_view()),
    path("sites/<str:name>/agent", site_agents.SiteAgent.as_view()),
    path("sites/<str:name>/agent/new-key", site_agents.AskForNewKey.as_view()),
    path("sites/<str:name>/agent/unlock", site_agents.UnlockAgent.as_view()),
    path("sites/<str:name>/agent/revoke", site_agents.RevokeAgent.as_view()),
    path("sites/<str:name>/triton-floor-waiver", site_waivers.TritonFloorWaiver.as_view()),
    path(f"{SITE_MODEL}/pin", quarantine.PinModel.as_view()),
    path(f"{SITE_MODEL}/unpin", quarantine.UnpinModel.as_view()),
    path("windows", windows.Windows.as_view()),
    path("windows/<str:name>", windows.WindowDetail.as_view()),
    path("rollouts", rollouts.Rollouts.as_view()),
    path(ROLLOUT, rollouts.RolloutDetail.as_view(), name="api-rollout"),
    path(f"{ROLLOUT}/deployments", rollouts.Deployments.as_view()),
    path(f"{ROLLOUT}/events", rollouts.RolloutEvents.as_view()),
    path(f"{ROLLOUT}/replay", rollouts.RolloutReplay.as_view()),
    path(f"{ROLLOUT}/pause", rollout_verbs.PauseRollout.as_view()),
    path(f"{ROLLOUT}/resume", rollout_verbs.ResumeRollout.as_view()),
    path(f"{ROLLOUT}/promote", rollout_verbs.PromoteRollout.as_view()),
    path(f"{ROLLOUT}/abort", rollout_verbs.AbortRollout.as_view()),
    path(f"{ROLLOUT}/stop-waiting", rollout_verbs.StopWaiting.as_view()),
    path(f"{ROLLOUT}/rollback", rollout_verbs.RollBackRollout.as_view()),
    path(f"{ROLLOUT}/retry-failed", rollout_verbs.RetryFailed.as_view()),
    path(f"{ROLLOUT}/approve", rollout_verbs.ApproveRollout.as_view()),
    path(
        f"{ROLLOUT}/stages/<plain:stage>/gates/<plain:gate>", rollout_verbs.GateVerdicts.as_view()
    ),
    path("freezes", freezes.Freezes.as_view()),
    path("freezes/<int:freeze_id>/lift", freezes.LiftFreeze.as_view()),
    path("budget", freezes.FleetBudget.as_view()),
    path("strategies", strategies.Strategies.as_view()),
    path("strategies/<str:name>", strategies.StrategyDetail.as_view()),
    path("strategies/<str:name>/retire", strategies.RetireStrategy.as_view()),
    path("drift", quarantine.Drift.as_view()),
    path("tokens", tokens.Tokens.as_view()),
    path("tokens/exchange", tokens.ExchangeToken.as_view()),
    path("tokens/<int:token_id>", tokens.TokenDetail.as_view()),
    path("tokens/<int:token_id>/revoke", tokens.RevokeToken.as_view()),
    path("publishers", publishers.Publishers.as_view()),
    path("publishers/<str:name>", publishers.PublisherDetail.as_view()),
    path("publishers/<str:name>/revoke", publishers.RevokePublisher.as_view()),
    path("webhooks", webhooks.Webhooks.as_view()),
    path("webhooks/<str:name>", webhooks.WebhookDetail.as_view()),
    path("webhooks/<str:name>/rotate-secret", webhooks.RotateSecret.as_view()),
    path("webhooks/<str:name>/test", webhooks.TestWebhook.as_view()),
    path("webhooks/<str:name>/deliveries", webhooks.Deliveries.as_view()),
    path(
        "webhooks/<str:name>/deliveries/<str:delivery_id>/redeliver", webhooks.Redeliver.as_view()
    ),
]
