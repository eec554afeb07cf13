"""Paths of the console."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from controlplane.web.views import (
    access_acts,
    access_pages,
    agent_acts,
    fit,
    freezes,
    model_acts,
    models,
    overview,
    people,
    rollout_verbs,
    rollouts,
    site_acts,
    sites,
    start,
    strategies,
    version_acts,
    versions,
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
    path("sites/<slug:name>/agent/new-key/", agent_acts.new_key, name="agent-new-key"),
    path("sites/<slug:name>/agent/unlock/", agent_acts.unlock, name="agent-unlock"),
    path("sites/<slug:name>/floor/waive/", site_acts.waive_floor, name="floor-waive"),
    path("sites/<slug:name>/floor/restore/", site_acts.restore_floor, name="floor-restore"),
    path("sites/<slug:name>/models/<slug:model>/pin/", site_acts.pin, name="site-pin"),
    path("sites/<slug:name>/models/<slug:model>/unpin/", site_acts.unpin, name="site-unpin"),
    path("models/", models.model_list, name="models"),
    path("models/<slug:model>/", models.detail, name="model"),
    path("models/<slug:model>/policy/", model_acts.policy, name="model-policy"),
    # Not below channels/: one may be called anything a slug can be.
    path("models/<slug:model>/new-channel/", model_acts.new_channel, name="channel-new"),
    path("models/<slug:model>/channels/<slug:channel>/move/", model_acts.move, name="channel-move"),
    path(
        "models/<slug:model>/channels/<slug:channel>/remove/",
        model_acts.drop_channel,
        name="channel-remove",
    ),
    path("models/<slug:model>/links/<int:link_id>/look/", model_acts.look_now, name="link-look"),
    path(
        "models/<slug:model>/imports/<int:import_id>/again/",
        model_acts.import_again,
        name="import-again",
    ),
    path("models/<slug:model>/<int:number>/", versions.version, name="version"),
    path("models/<slug:model>/<int:number>/fit/", fit.fit, name="version-fit"),
    path("models/<slug:model>/<int:number>/golden/", versions.golden, name="version-golden"),
    path("models/<slug:model>/<int:number>/approve/", version_acts.approve, name="version-approve"),
    path(
        "models/<slug:model>/<int:number>/withdraw/", version_acts.withdraw, name="version-withdraw"
    ),
    path("models/<slug:model>/<int:number>/retire/", version_acts.retire, name="version-retire"),
    path(
        "models/<slug:model>/<int:number>/unretire/", version_acts.unretire, name="version-unretire"
    ),
    path("models/<slug:model>/<int:number>/notes/", version_acts.notes, name="version-notes"),
    path(
        "models/<slug:model>/<int:number>/quarantine/",
        versions.quarantine,
        name="version-quarantine",
    ),
    path("models/<slug:model>/<int:number>/release/", versions.release, name="version-release"),
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
    path("access/", access_pages.tokens, name="tokens"),
    path("access/new-token/", access_pages.new_token, name="token-new"),
    path("access/tokens/<int:token_id>/revoke/", access_acts.end_token, name="token-revoke"),
    path("access/publishers/", access_pages.publisher_list, name="publishers"),
    path("access/new-publisher/", access_pages.new_publisher, name="publisher-new"),
    path("access/publishers/<slug:name>/revoke/", access_acts.distrust, name="publisher-revoke"),
    path("access/keys/", access_pages.key_list, name="signing-keys"),
    path("access/new-key/", access_pages.new_key, name="signing-key-new"),
    path("access/keys/<slug:name>/revoke/", access_acts.revoke_key, name="signing-key-revoke"),
]
