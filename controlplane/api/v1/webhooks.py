"""Webhooks: who is told of events over HTTP, and what became of each delivery."""

from typing import Any

import django_filters
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of
from controlplane.api.paging import NewestFirst
from controlplane.audit.models import Delivery, DeliveryState, Webhook
from controlplane.audit.queries import deliveries_of, find_webhook, webhooks
from controlplane.audit.webhooks import (
    change_webhook,
    create_webhook,
    delete_webhook,
    redeliver,
    rotate_secret,
    send_test,
)
from controlplane.audit.webhooks_message import message_id
from controlplane.domain.errors import FieldError, InvalidInput

SHOWN_ONCE = "shown once"


class WebhookPatch(serializers.Serializer[Any]):
    """The name is for ever: events use it."""

    url = serializers.CharField(max_length=500, help_text="https://…")
    actions = serializers.ListField(
        child=serializers.CharField(max_length=60),
        help_text='"rollout.paused", "rollout." for all of a kind, or "*" for every event',
    )
    active = serializers.BooleanField(required=False)

    def to_internal_value(self, data: Any) -> Any:
        """Unknown keys are refused: a mistyped `active` must not be silently true."""
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, dict) else []
        if unknown:
            faults = [
                FieldError(field=key, message="is not a property that can be set")
                for key in unknown
            ]
            raise InvalidInput(
                "webhook-invalid", "The webhook cannot be kept as given.", errors=faults
            )
        return super().to_internal_value(data)


class WebhookIn(WebhookPatch):
    name = serializers.CharField(max_length=63)
    active = serializers.BooleanField(required=False, default=True)


class WebhookOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    url = serializers.CharField()
    actions = serializers.ListField(child=serializers.CharField())
    active = serializers.BooleanField()
    disabled_reason = serializers.CharField(help_text="why it was switched off by itself")
    failures = serializers.IntegerField(help_text="batches in a row that ended with a failure")
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()


class NewWebhookOut(WebhookOut):
    secret = serializers.CharField(help_text=SHOWN_ONCE)


class RotatedSecretOut(serializers.Serializer[Any]):
    secret = serializers.CharField(help_text=SHOWN_ONCE)
    previous_secret_until = serializers.DateTimeField(
        help_text="until then deliveries carry the old secret's signature too"
    )


class DeliveryOut(serializers.Serializer[Any]):
    id = serializers.SerializerMethodField(help_text="the receiver's `webhook-id`")
    event = serializers.IntegerField(source="event_id")
    action = serializers.CharField(source="event.action")
    object_type = serializers.CharField(source="event.object_type")
    object_id = serializers.CharField(source="event.object_id")
    state = serializers.ChoiceField(choices=DeliveryState.choices)
    attempts = serializers.IntegerField()
    next_attempt_at = serializers.SerializerMethodField(
        help_text="not before; null when nothing more is sent"
    )
    last_status = serializers.IntegerField(allow_null=True)
    last_error = serializers.CharField()
    created_at = serializers.DateTimeField()
    delivered_at = serializers.DateTimeField(allow_null=True)

    def get_id(self, delivery: Delivery) -> str:
        return message_id(delivery.pk)

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_next_attempt_at(self, delivery: Delivery) -> Any:
        if delivery.state != DeliveryState.PENDING:
            return None
        return serializers.DateTimeField().to_representation(delivery.next_attempt_at)


class Webhooks(ListAPIView[Webhook]):
    serializer_class = WebhookOut
    write_scope = Scope.FLEET
    filter_backends = ()

    def get_queryset(self) -> Any:
        return webhooks()

    @extend_schema(request=WebhookIn, responses={201: NewWebhookOut})
    def post(self, request: Request) -> Response:
        body = WebhookIn(data=request.data)
        body.is_valid(raise_exception=True)
        webhook, secret = create_webhook(
            **body.validated_data, actor=actor_of(request), now=timezone.now()
        )
        return Response({**WebhookOut(webhook).data, "secret": secret}, status=201)


class WebhookDetail(APIView):
    write_scope = Scope.FLEET

    @extend_schema(responses=WebhookOut)
    def get(self, request: Request, name: str) -> Response:
        return Response(WebhookOut(find_webhook(name)).data)

    @extend_schema(request=WebhookPatch, responses=WebhookOut)
    def patch(self, request: Request, name: str) -> Response:
        body = WebhookPatch(data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        webhook = change_webhook(
            name=name, fields=body.validated_data, actor=actor_of(request), now=timezone.now()
        )
        return Response(WebhookOut(webhook).data)

    @extend_schema(
        responses={204: None},
        description="Removes the webhook with its deliveries, also those that wait. Events stay.",
    )
    def delete(self, request: Request, name: str) -> Response:
        delete_webhook(name=name, actor=actor_of(request), now=timezone.now())
        return Response(status=204)


class RotateSecret(APIView):
    write_scope = Scope.FLEET

    @extend_schema(request=None, responses=RotatedSecretOut)
    def post(self, request: Request, name: str) -> Response:
        webhook, secret = rotate_secret(name=name, actor=actor_of(request), now=timezone.now())
        document = {"secret": secret, "previous_secret_until": webhook.previous_secret_until}
        return Response(RotatedSecretOut(document).data)


class TestWebhook(APIView):
    write_scope = Scope.FLEET

    @extend_schema(
        request=None,
        responses={202: DeliveryOut},
        description="Queues a `webhook.test` event for this webhook; look at its delivery for what "
        "came of it.",
    )
    def post(self, request: Request, name: str) -> Response:
        delivery = send_test(name=name, actor=actor_of(request), now=timezone.now())
        return Response(DeliveryOut(delivery).data, status=202)


class DeliveryFilter(django_filters.FilterSet):  # type: ignore[misc]  # the library carries no types
    state = django_filters.ChoiceFilter(choices=DeliveryState.choices)

    class Meta:
        model = Delivery
        fields = ("state",)


class NewestEventFirst(NewestFirst):
    ordering = "-event_id"


class Deliveries(ListAPIView[Delivery]):
    """Newest first; kept for 30 days."""

    serializer_class = DeliveryOut
    pagination_class = NewestEventFirst
    filterset_class = DeliveryFilter

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return Delivery.objects.none()
        return deliveries_of(find_webhook(self.kwargs["name"]))


class Redeliver(APIView):
    write_scope = Scope.FLEET

    @extend_schema(
        request=None,
        responses={202: DeliveryOut},
        description="Sends it again, whatever became of it, under the same id.",
    )
    def post(self, request: Request, name: str, delivery_id: str) -> Response:
        delivery = redeliver(
            name=name, delivery_id=delivery_id, actor=actor_of(request), now=timezone.now()
        )
        return Response(DeliveryOut(delivery).data, status=202)
