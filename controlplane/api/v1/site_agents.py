"""What an operator does about a site's agent: a new key, letting it in again, ending it."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of
from controlplane.api.v1.fleet import SiteReasonIn
from controlplane.domain.errors import NotFound
from controlplane.fleet.keys import ask_for_new_key, revoke_agent_of, unlock_agent
from controlplane.fleet.models import Agent
from controlplane.fleet.queries import active_agent, find_site


class NewKeyIn(serializers.Serializer[Any]):
    by = serializers.DateTimeField(
        required=False,
        allow_null=True,
        default=None,
        help_text="until when it should be done, for people to see; default: in a week",
    )


class TrustOut(serializers.Serializer[Any]):
    unsigned = serializers.CharField(help_text="allowed, warned or refused")
    keys = serializers.ListField(
        child=serializers.CharField(), help_text="fingerprints of the release keys it trusts"
    )


class SiteAgentOut(serializers.ModelSerializer[Agent]):
    """The agent of a site. Its key is known here by its public half alone. What the site's own
    configuration allows is null until the agent reported it; nobody can change it from here."""

    trust = TrustOut(allow_null=True)

    class Meta:
        model = Agent
        fields = (
            "id",
            "hostname",
            "agent_version",
            "enrolled_at",
            "observed_generation",
            "clock_skew_seconds",
            "key_changed_at",
            "rotate_by",
            "locked_at",
            "refused_protocol",
            "executable_allowed",
            "trust",
        )
        read_only_fields = fields


class SiteAgent(APIView):
    @extend_schema(responses=SiteAgentOut)
    def get(self, request: Request, name: str) -> Response:
        agent = active_agent(find_site(name))
        if agent is None:
            raise NotFound("agent-not-joined", f"No agent has joined site {name!r}.")
        return Response(SiteAgentOut(agent).data)


class AskForNewKey(APIView):
    write_scope = Scope.FLEET

    @extend_schema(request=NewKeyIn, responses=SiteAgentOut)
    def post(self, request: Request, name: str) -> Response:
        """Has the agent make a new key when it next logs in, within the hour."""
        body = NewKeyIn(data=request.data)
        body.is_valid(raise_exception=True)
        agent = ask_for_new_key(
            site=find_site(name),
            by=body.validated_data["by"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(SiteAgentOut(agent).data)


class UnlockAgent(APIView):
    write_scope = Scope.FLEET

    @extend_schema(request=SiteReasonIn, responses=SiteAgentOut)
    def post(self, request: Request, name: str) -> Response:
        """Lets the agent in again, once the copy that held its key is gone."""
        agent = unlock_agent(
            site=find_site(name),
            reason=_reason(request),
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(SiteAgentOut(agent).data)


class RevokeAgent(APIView):
    write_scope = Scope.FLEET

    @extend_schema(request=SiteReasonIn, responses={204: None})
    def post(self, request: Request, name: str) -> Response:
        """Ends the agent for good; what the site serves is not touched."""
        revoke_agent_of(
            site=find_site(name),
            reason=_reason(request),
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(status=204)


def _reason(request: Request) -> str:
    body = SiteReasonIn(data=request.data)
    body.is_valid(raise_exception=True)
    reason: str = body.validated_data["reason"]
    return reason
