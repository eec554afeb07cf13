"""Where an MLflow server says that something changed. It proves itself by a signature, not by a
token, and whatever it says only has the link looked at sooner: the registry itself is asked then.
Deliveries may come twice, late or never."""

from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.catalog.registry.linking import ask_for_reconcile
from controlplane.catalog.registry.webhook import MAX_BODY_BYTES, model_named, require_signed
from controlplane.domain.errors import TooLarge

_HEADERS = [
    OpenApiParameter(name, str, OpenApiParameter.HEADER, required=True, description=text)
    for name, text in (
        ("X-MLflow-Signature", "`v1,` and base64 of HMAC-SHA256 over `ID.TIMESTAMP.BODY`"),
        ("X-MLflow-Timestamp", "seconds since 1970, at most 300 away"),
        ("X-MLflow-Delivery-Id", "of this delivery"),
    )
]


class _AnyBody(BaseParser):
    """The signature is over the bytes as they came."""

    media_type = "*/*"


class MlflowWebhook(APIView):
    authentication_classes = ()
    permission_classes = ()
    parser_classes = (_AnyBody,)

    @extend_schema(
        request={"application/json": dict},
        parameters=_HEADERS,
        responses={202: None},
        auth=[],
        description="The receiver of MLflow's webhooks. A delivery that is signed rightly is "
        "answered 202, whatever it is about: a model that is linked is looked at soon.",
    )
    def post(self, request: Request) -> Response:
        body = request._request.body
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge("body-too-large", f"A delivery has at most {MAX_BODY_BYTES} bytes.")
        now = timezone.now()
        secret = settings.WAYPOST_MLFLOW_WEBHOOK_SECRET
        require_signed(secret=secret, headers=request._request.headers, body=body, now=now)
        if name := model_named(body):
            ask_for_reconcile(remote_name=name, now=now)
        return Response(status=202)
