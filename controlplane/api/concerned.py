"""Which models a write is about: what a token of named models is held against.

Without an answer such a token may not write at all, so a new view is closed to it until it says.
A view says by itself with `models_concerned(request)`; else the path tells (`models/NAME/…`,
`sites/SITE/models/MODEL/…`, `rollouts/ID/…`), else `model` in the body."""

from collections.abc import Collection, Mapping
from typing import Any

from rest_framework.exceptions import APIException
from rest_framework.request import Request

from controlplane.rollouts.models import Rollout

PREFIX = "/api/v1/"
# What is about a model by the name in its body.
BY_BODY = {"models": "name", "rollouts": "model"}


def models_concerned(request: Request, view: Any) -> Collection[str] | None:
    """Names, existing or not; None: not about certain models."""
    if hasattr(view, "models_concerned"):
        said: Collection[str] | None = view.models_concerned(request)
        return said
    path = request.path_info.removeprefix(PREFIX)
    if path.startswith("models/"):
        return [str(view.kwargs.get("model", view.kwargs.get("name")))]
    if path.startswith("sites/") and "model" in view.kwargs:
        return [str(view.kwargs["model"])]
    if "rollout_id" in view.kwargs:
        rows = Rollout.objects.filter(pk=view.kwargs["rollout_id"])
        return list(rows.values_list("model__name", flat=True)) or None
    key = BY_BODY.get(path)
    return _named(request, key) if key else None


def _named(request: Request, key: str) -> Collection[str] | None:
    try:
        body = request.data
    except APIException:
        return None
    name: object = body.get(key) if isinstance(body, Mapping) else None
    return [name] if isinstance(name, str) else None
