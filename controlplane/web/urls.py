"""Paths of the console."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from controlplane.web.views import (
    catalog,
    freezes,
    overview,
    people,
    rollout_verbs,
    rollouts,
    site_acts,
    sites,
    start,
    strategies,
)

urlpatterns = [
    path("login/", people.Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("", overview.overview, name="overview"),
    path("sites/", sites.site_list, name="sites"),
    # Not below sites/: a site may be called anything a slug can be.
    path("add-site/", sites.add, name="site-add"),
    path("sites/<slug:name>/", sites.detail, name="site"),
    path("sites/<slug:name>/enrolment-token/", sites.enrolment_token, name="site-token"),
    path("sites/<slug:name>/retire/", site_acts.retire, name="site-retire"),
    path("sites/<slug:name>/models/<slug:model>/pin/", site_acts.pin, name="site-pin"),
    path("sites/<slug:name>/models/<slug:model>/unpin/", site_acts.unpin, name="site-unpin"),
    path("models/", catalog.model_list, name="models"),
    path("models/<slug:model>/<int:number>/", catalog.version, name="version"),
    path(
        "models/<slug:model>/<int:number>/quarantine/",
        catalog.quarantine,
        name="version-quarantine",
    ),
    path("models/<slug:model>/<int:number>/release/", catalog.release, name="version-release"),
    path("rollouts/", rollouts.rollout_list, name="rollouts"),
    path("rollouts/start/", start.start, name="rollout-start"),
    path("rollouts/<int:rollout_id>/", rollouts.detail, name="rollout"),
    path("rollouts/<int:rollout_id>/stages/<slug:stage>/", rollouts.stage, name="rollout-stage"),
    path("rollouts/<int:rollout_id>/<slug:verb>/", rollout_verbs.act, name="rollout-verb"),
    path("strategies/", strategies.strategy_list, name="strategies"),
    # Not below strategies/: one may be called anything a slug can be.
    path("new-strategy/", strategies.new, name="strategy-new"),
    path("strategies/<slug:name>/", strategies.detail, name="strategy"),
    path("strategies/<slug:name>/retire/", strategies.retire, name="strategy-retire"),
    path("freezes/", freezes.freezes, name="freezes"),
    path("freezes/<int:freeze_id>/lift/", freezes.lift, name="freeze-lift"),
    path("budget/", freezes.budget, name="budget"),
]
