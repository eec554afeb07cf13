"""How a file falls into chunks, for agents: who may read the file may read its map."""

import gzip

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from controlplane.api.agent_v1.http import session_call
from controlplane.catalog.queries import chunk_map_document
from controlplane.domain.errors import NotFound
from controlplane.fleet.identity import Caller
from controlplane.rollouts.queries import site_may_read

# Below this, packing saves no packet.
_SMALL_BYTES = 1024


@session_call("GET")
def chunks(request: HttpRequest, caller: Caller, sha256: str) -> HttpResponseBase:
    if site_may_read(site_id=caller.site_id, sha256=sha256) is None:
        raise NotFound("blob-unknown", "No version wished for at this site has such a file.")
    found = chunk_map_document(sha256)
    if found is None:
        raise NotFound("chunks-unknown", "There is no chunk map of this file, or not yet.")
    packed, digest = found
    # Both codings are one edition of one document: the tag is weak.
    headers = {"ETag": f'W/"{digest}"', "Vary": "Accept-Encoding", "Cache-Control": "private"}
    if request.headers.get("If-None-Match", "") == headers["ETag"]:
        return HttpResponse(status=304, headers=headers)
    plain = gzip.decompress(packed)
    if len(plain) <= _SMALL_BYTES or "gzip" not in request.headers.get("Accept-Encoding", ""):
        return HttpResponse(plain, content_type="application/json", headers=headers)
    headers["Content-Encoding"] = "gzip"
    return HttpResponse(packed, content_type="application/json", headers=headers)
