"""Paths of the console."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from controlplane.web.views import catalog, overview, people, rollouts, sites

urlpatterns = [
    path("login/", people.Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("", overview.overview, name="overview"),
    path("sites/", sites.site_list, name="sites"),
    # Not below sites/: a site may be called anything a slug can be.
    path("add-site/", sites.add, name="site-add"),
    path("sites/<slug:name>/", sites.detail, name="site"),
    path("sites/<slug:name>/enrolment-token/", sites.enrolment_token, name="site-token"),
    path("models/", catalog.model_list, name="models"),
    path("models/<slug:model>/<int:number>/", catalog.version, name="version"),
    path("rollouts/", rollouts.rollout_list, name="rollouts"),
    path("rollouts/start/", rollouts.start, name="rollout-start"),
    path("rollouts/<int:rollout_id>/", rollouts.detail, name="rollout"),
    path("rollouts/<int:rollout_id>/stages/<slug:stage>/", rollouts.stage, name="rollout-stage"),
    path("rollouts/<int:rollout_id>/<slug:verb>/", rollouts.act, name="rollout-verb"),
]
