"""Which scopes a person may give to a machine: those whose acts the person may do here.

A token acts with its scopes alone, whatever its person may do: without this a login that may only
look could make itself a token that approves."""

from collections.abc import Mapping

from django.http import HttpRequest

from controlplane.accounts.models import Scope
from controlplane.web import access

_RIGHTS: Mapping[Scope, tuple[str, ...]] = {
    Scope.READ: (),
    Scope.PUSH: (access.PUSH,),
    Scope.APPROVE: (
        access.APPROVE,
        access.CHANGE_VERSION,
        access.SET_MODEL,
        access.MOVE_CHANNEL,
        access.IMPORT,
        access.ADD_KEY,
        access.REVOKE_KEY,
        access.ADD_PUBLISHER,
        access.REVOKE_PUBLISHER,
    ),
    Scope.ROLLOUT: (
        access.START,
        access.STEER,
        access.PIN,
        access.QUARANTINE,
        access.KEEP_STRATEGY,
        access.RETIRE_STRATEGY,
    ),
    Scope.FLEET: (
        access.ADD_SITE,
        access.RETIRE_SITE,
        access.ENROL,
        access.STEER_AGENT,
        access.WAIVE_FLOOR,
    ),
    Scope.FREEZE: (access.FREEZE, access.LIFT, access.SET_BUDGET),
}


def withheld(request: HttpRequest) -> dict[str, str]:
    """Why this person may not give a scope, by scope; those that they may give are left out."""
    found = {scope.value: access.refusal(request, *rights) for scope, rights in _RIGHTS.items()}
    return {scope: why for scope, why in found.items() if why}
