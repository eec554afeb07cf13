"""Artifacts for agents: whole, or from a byte on, so that a download resumes after any cut.

A site may read only what a version wished for there contains."""

import asyncio
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import BinaryIO

from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse

from controlplane.api.agent_v1.http import session_call
from controlplane.api.errors import problem_response
from controlplane.catalog.queries import blob_store, patch_store
from controlplane.catalog.store import CHUNK_BYTES
from controlplane.domain.errors import NotFound, WaypostError
from controlplane.fleet.identity import Caller
from controlplane.rollouts.queries import site_may_read, site_may_read_patch

_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})?")


@session_call("GET")
def blob(request: HttpRequest, caller: Caller, sha256: str) -> HttpResponseBase:
    size, store = site_may_read(site_id=caller.site_id, sha256=sha256), blob_store()
    if size is None:
        size, store = site_may_read_patch(site_id=caller.site_id, sha256=sha256), patch_store()
    if size is None:
        raise NotFound("blob-unknown", "No version wished for at this site has such a file.")
    tag = f'"{sha256}"'
    headers = {"ETag": tag, "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff"}
    wanted = _wanted(request, size, tag)
    if wanted is None:
        error = WaypostError("range-not-satisfiable", f"The file has {size} bytes.")
        response = problem_response(error, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        response["Content-Range"] = f"bytes */{size}"
        return response
    start, end, partial = wanted
    if partial:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    try:
        file = store.open(sha256, start)
    except FileNotFoundError as error:
        raise NotFound(
            "blob-lost", "The artifact store has lost this file; push it again."
        ) from error
    return StreamingHttpResponse(
        _stream(file, end - start),
        status=206 if partial else 200,
        content_type="application/octet-stream",
        headers={**headers, "Content-Length": str(end - start)},
    )


def _wanted(request: HttpRequest, size: int, tag: str) -> tuple[int, int, bool] | None:
    """(start, end, partial), end exclusive; None when nothing of the range exists.

    A range of another edition (If-Range) or of a form we do not serve is answered whole: RFC 9110
    section 14.2 allows it.
    """
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if match is None or request.headers.get("If-Range", tag) != tag:
        return 0, size, False
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    return (start, end, True) if start < end else None


async def _stream(file: BinaryIO, length: int) -> AsyncIterator[bytes]:
    """Reads in a thread: a slow store must not hold up the event loop, a file not fill memory."""
    with file:
        while length > 0:
            chunk = await asyncio.to_thread(file.read, min(CHUNK_BYTES, length))
            if not chunk:
                return
            length -= len(chunk)
            yield chunk
