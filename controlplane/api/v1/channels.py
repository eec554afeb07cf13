"""Channels of a model: names such as `stable` that move from version to version."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of, may_roll_out, person_of
from controlplane.api.v1.fields import StrictBody, VersionNumber
from controlplane.catalog.channels import channels_of, find_channel, move_channel, remove_channel
from controlplane.catalog.models import Channel
from controlplane.catalog.queries import find_model, find_version
from controlplane.domain.errors import FieldError, InvalidInput, NotFound
from controlplane.rollouts.channel_moves import strategy_named


class ChannelIn(StrictBody):
    version = VersionNumber()
    strategy = serializers.CharField(
        max_length=40,
        required=False,
        allow_blank=True,
        default=None,
        allow_null=True,
        help_text='rolls out each move, this one too: "edge-first", or "edge-first@2"; left out: '
        "as it is stored; empty: a move starts nothing",
    )
    reason = serializers.CharField(max_length=400)


class ChannelOut(serializers.Serializer[Any]):
    model = serializers.CharField(source="model.name")
    name = serializers.CharField()
    version = VersionNumber(allow_null=True)
    strategy = serializers.CharField(help_text="empty: a move starts nothing")
    moved_by = serializers.CharField()
    person = serializers.CharField(help_text="who moved it; the author of the rollout")
    moved_at = serializers.DateTimeField(allow_null=True)
    handled_at = serializers.DateTimeField(
        allow_null=True, help_text="null: the engine has not acted on the move yet"
    )
    outcome = serializers.CharField(help_text="what came of the move, or what it waits for")
    revision = serializers.IntegerField()


class Channels(ListAPIView[Channel]):
    serializer_class = ChannelOut
    filter_backends = ()

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return Channel.objects.none()
        return channels_of(find_model(self.kwargs["name"]))


class ChannelDetail(APIView):
    write_scope = Scope.APPROVE

    @extend_schema(responses=ChannelOut)
    def get(self, request: Request, name: str, channel: str) -> Response:
        return Response(ChannelOut(find_channel(find_model(name), channel)).data)

    @extend_schema(
        request=ChannelIn,
        responses={200: ChannelOut, 201: ChannelOut},
        description="Points the channel at an approved version. With a strategy the engine rolls "
        "the version out soon after, once no other rollout of the model is at work; `outcome` says "
        "what came of it. Only the newest move of a channel counts. Where a strategy is given or "
        "stored, the scope `rollout` is needed as well.",
    )
    def put(self, request: Request, name: str, channel: str) -> Response:
        body = ChannelIn(data=request.data)
        body.is_valid(raise_exception=True)
        model, strategy = find_model(name), body.validated_data["strategy"]
        if strategy:
            strategy_named(strategy)
        _, created = move_channel(
            model=model,
            name=channel,
            version=_version(name, body.validated_data["version"]),
            strategy=strategy,
            reason=body.validated_data["reason"],
            actor=actor_of(request),
            person=person_of(request),
            may_roll_out=may_roll_out(request),
            now=timezone.now(),
        )
        document = ChannelOut(find_channel(model, channel)).data
        return Response(document, status=201 if created else 200)

    @extend_schema(responses={204: None}, description="What it started goes on; its versions stay.")
    def delete(self, request: Request, name: str, channel: str) -> Response:
        remove_channel(
            model=find_model(name),
            name=channel,
            reason="",
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(status=204)


def _version(name: str, number: int) -> Any:
    try:
        return find_version(name, number)
    except NotFound as error:
        fault = FieldError(field="version", message=error.detail)
        raise InvalidInput("version-unknown", error.detail, errors=[fault]) from error
