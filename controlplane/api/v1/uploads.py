"""The bytes of a version: a file whole or in pieces, or large ones straight into the bucket."""

import re
from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.body_limit import PIECE_BYTES
from controlplane.api.v1.fields import StrictBody
from controlplane.catalog.multipart import (
    MAX_PARTS,
    Multipart,
    abort_multipart,
    begin_multipart,
    complete_multipart,
)
from controlplane.catalog.partials import Piece
from controlplane.catalog.queries import find_version
from controlplane.catalog.uploads import UploadState, append_piece, store_blob, upload_state
from controlplane.domain.errors import FieldError, InvalidInput

# RFC 9110 section 14.4; no unknown total, since the manifest knows it.
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class AnyBytes(BaseParser):
    """Hands the body on as a stream: a file is never held in memory."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        return stream


class VersionBlob(APIView):
    write_scope = Scope.PUSH
    parser_classes = (AnyBytes,)

    @extend_schema(
        responses={
            200: OpenApiResponse(description="held whole"),
            204: OpenApiResponse(
                description="not whole yet: `Upload-Offset` bytes are held; `Upload-Method` is "
                "`pieces` (PUT with Content-Range) or `parts` (POST to `multipart`)"
            ),
        },
        description="How far a file of the manifest is.",
    )
    def head(self, request: Request, name: str, number: int, sha256: str) -> Response:
        version = find_version(name, number)
        return _told(upload_state(version=version, sha256=sha256), whole=200)

    @extend_schema(
        parameters=[
            OpenApiParameter(
                "Content-Range",
                OpenApiTypes.STR,
                OpenApiParameter.HEADER,
                description="`bytes FIRST-LAST/SIZE` of a piece that begins where the last ended",
            )
        ],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses={
            201: OpenApiResponse(description="held whole now"),
            200: OpenApiResponse(description="was held whole before"),
            204: OpenApiResponse(description="the piece is held, synced; more is wanted"),
        },
        description="One file of the manifest, whole, or the next piece of it: at most 64 MiB "
        "either way. Kept only if its size and SHA-256 match.",
    )
    def put(self, request: Request, name: str, number: int, sha256: str) -> Response:
        version, stream, now = find_version(name, number), request._request, timezone.now()
        piece = _piece(request)
        if piece is None:
            created = store_blob(version=version, sha256=sha256, stream=stream, now=now)
            return Response(status=201 if created else 200)
        state = append_piece(version=version, sha256=sha256, piece=piece, stream=stream, now=now)
        return _told(state, whole=201)


class MultipartIn(StrictBody):
    size = serializers.IntegerField(min_value=1, max_value=1 << 50, help_text="of the file, bytes")
    first = serializers.IntegerField(
        min_value=1,
        max_value=MAX_PARTS,
        required=False,
        default=1,
        help_text="the part that the page of URLs begins at",
    )


class PartOut(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    offset = serializers.IntegerField(help_text="in the file, bytes")
    size = serializers.IntegerField(source="size_bytes", help_text="exactly so many bytes")
    url = serializers.CharField(help_text="PUT the bytes there, with Content-Length alone")
    expires_at = serializers.DateTimeField()


class HeldPartOut(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    etag = serializers.CharField()
    size = serializers.IntegerField(source="size_bytes")


class MultipartOut(serializers.Serializer[Any]):
    upload = serializers.CharField()
    size = serializers.IntegerField(source="size_bytes")
    part_bytes = serializers.IntegerField()
    parts = PartOut(many=True, help_text="those to send, at most 100")
    held = HeldPartOut(many=True, help_text="those that are there already")
    next = serializers.IntegerField(
        allow_null=True, help_text="ask again with this as `first` for further URLs"
    )
    done = serializers.BooleanField(help_text="the file is held whole; nothing is to be sent")


class PartIn(StrictBody):
    number = serializers.IntegerField(min_value=1, max_value=MAX_PARTS)
    etag = serializers.CharField(max_length=200)


class CompleteIn(StrictBody):
    upload = serializers.CharField(max_length=64)
    parts = PartIn(many=True, required=False, default=list)


class AbortIn(StrictBody):
    upload = serializers.CharField(max_length=64)


class BlobMultipart(APIView):
    write_scope = Scope.PUSH

    @extend_schema(
        request=MultipartIn,
        responses=MultipartOut,
        description="Begins a large file's way straight into the bucket, or goes on with it: URLs "
        "for the parts that are not there yet, each good for an hour. Ask again for fresh ones.",
    )
    def post(self, request: Request, name: str, number: int, sha256: str) -> Response:
        body = MultipartIn(data=request.data)
        body.is_valid(raise_exception=True)
        made: Multipart = begin_multipart(
            version=find_version(name, number),
            sha256=sha256,
            size_bytes=body.validated_data["size"],
            first=body.validated_data["first"],
            now=timezone.now(),
        )
        return Response(MultipartOut(made).data)


class CompleteMultipart(APIView):
    write_scope = Scope.PUSH

    @extend_schema(
        request=CompleteIn,
        responses={
            201: OpenApiResponse(description="held whole now"),
            200: OpenApiResponse(description="was held whole before"),
        },
        description="Puts the parts together and reads the whole; it counts only if its size and "
        "SHA-256 match, and is removed if not. Again it goes on where it was cut.",
    )
    def post(self, request: Request, name: str, number: int, sha256: str) -> Response:
        body = CompleteIn(data=request.data)
        body.is_valid(raise_exception=True)
        created = complete_multipart(
            version=find_version(name, number),
            sha256=sha256,
            upload=body.validated_data["upload"],
            parts={part["number"]: part["etag"] for part in body.validated_data["parts"]},
            now=timezone.now(),
        )
        return Response(status=201 if created else 200)


class AbortMultipart(APIView):
    write_scope = Scope.PUSH

    @extend_schema(
        request=AbortIn, responses={204: None}, description="Ends the upload; its parts go."
    )
    def post(self, request: Request, name: str, number: int, sha256: str) -> Response:
        body = AbortIn(data=request.data)
        body.is_valid(raise_exception=True)
        version, upload = find_version(name, number), body.validated_data["upload"]
        abort_multipart(version=version, sha256=sha256, upload=upload)
        return Response(status=204)


def _told(state: UploadState, *, whole: int) -> Response:
    response = Response(status=whole if state.done else 204)
    response["Upload-Offset"] = str(state.offset)
    response["Upload-Length"] = str(state.size_bytes)
    response["Upload-Method"] = "parts" if state.in_parts else "pieces"
    return response


def _piece(request: Request) -> Piece | None:
    """None for a whole file. Raises `InvalidInput` (`content-range-invalid`, `size-mismatch`)."""
    given = request.headers.get("Content-Range")
    if given is None:
        return None
    match = _CONTENT_RANGE.fullmatch(given.strip())
    if match is None:
        raise _bad_range("it must be written as bytes FIRST-LAST/SIZE")
    start, last, total = (int(number) for number in match.groups())
    if not start <= last < total:
        raise _bad_range("FIRST <= LAST < SIZE must hold")
    if last + 1 - start > PIECE_BYTES:
        raise _bad_range(f"a piece has at most {PIECE_BYTES} bytes")
    declared = request.headers.get("Content-Length")
    if declared and declared != str(last + 1 - start):
        raise InvalidInput(
            "size-mismatch",
            f"The body has {declared[:20]} bytes, the range {last + 1 - start}; nothing was kept.",
            errors=[FieldError(field="Content-Length", message="does not fit Content-Range")],
        )
    return Piece(start=start, end=last + 1, total=total)


def _bad_range(why: str) -> InvalidInput:
    return InvalidInput(
        "content-range-invalid",
        f"The Content-Range cannot be used: {why}.",
        errors=[FieldError(field="Content-Range", message=why)],
    )
