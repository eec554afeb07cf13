"""The calls that move a large file: how far it is, a piece of it, parts straight into a bucket.
Decides paths and headers; what is sent when is `uploading.py`'s."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from waypost_cli.errors import CliError, UnavailableError
from waypost_cli.transport import Answer, Transport

# The control plane hashes the whole file before it answers the last piece, or reads it back from
# the bucket.
_PIECE_TIMEOUT_SECONDS = 300.0
_COMPLETE_TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True, kw_only=True)
class BlobPlace:
    """Which file of which version."""

    model: str
    version: str
    sha256: str

    @property
    def path(self) -> str:
        model, version = quote(self.model, safe=""), quote(self.version, safe="")
        return f"/models/{model}/versions/{version}/blobs/{self.sha256}"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`offset`: bytes the control plane holds; `in_parts`: it wants them in a bucket."""

    offset: int
    done: bool
    in_parts: bool


@dataclass(frozen=True, kw_only=True)
class PartLink:
    """Where to PUT `size` bytes from `offset` on."""

    number: int
    offset: int
    size: int
    url: str


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A page of the parts still to send; `following` begins the next page."""

    upload: str
    links: tuple[PartLink, ...]
    held: Mapping[int, str]
    held_bytes: int
    following: int | None
    done: bool


class UploadApi:
    """Raises what `Transport.request` raises, and `CliError` for an answer of another shape."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def progress(self, place: BlobPlace) -> Progress:
        return _progress(self._transport.request("HEAD", place.path))

    def put_piece(
        self, place: BlobPlace, *, start: int, end: int, total: int, content: Iterable[bytes]
    ) -> Progress:
        """Bytes `start` to `end` (exclusive). Tries once: the next depends on what arrived."""
        answer = self._transport.request(
            "PUT",
            place.path,
            content=lambda: content,
            headers={
                "Content-Length": str(end - start),
                "Content-Range": f"bytes {start}-{end - 1}/{total}",
                "Content-Type": "application/octet-stream",
            },
            read_timeout_seconds=_PIECE_TIMEOUT_SECONDS,
            attempts=1,
        )
        return _progress(answer)

    def parts(self, place: BlobPlace, *, size: int, first: int = 1) -> Parts:
        """Begins the upload, or joins it; asked again, the addresses are fresh."""
        body = {"size": size, "first": first}
        answer = self._transport.request("POST", f"{place.path}/multipart", json=body)
        return _parts(answer.body)

    def put_part(self, url: str, content: Iterable[bytes], size: int) -> str:
        """Its ETag."""
        return self._transport.put_elsewhere(url, content, size)

    def complete(self, place: BlobPlace, upload: str, parts: Mapping[int, str]) -> None:
        body = {
            "upload": upload,
            "parts": [{"number": n, "etag": etag} for n, etag in sorted(parts.items())],
        }
        # Again it goes on where it was cut.
        self._transport.request(
            "POST",
            f"{place.path}/multipart/complete",
            json=body,
            read_timeout_seconds=_COMPLETE_TIMEOUT_SECONDS,
        )

    def abort(self, place: BlobPlace, upload: str) -> None:
        self._transport.request("POST", f"{place.path}/multipart/abort", json={"upload": upload})

    def pause_after(self, error: UnavailableError, attempt: int) -> None:
        self._transport.pause_after(error, attempt)


def _progress(answer: Answer) -> Progress:
    offset = answer.headers.get("Upload-Offset", "")
    if answer.status in (200, 201):
        return Progress(offset=0, done=True, in_parts=False)
    if not offset.isdigit():
        raise _unexpected("no offset of the upload")
    in_parts = answer.headers.get("Upload-Method") == "parts"
    return Progress(offset=int(offset), done=False, in_parts=in_parts)


def _parts(body: object) -> Parts:
    try:
        if not isinstance(body, Mapping):
            raise TypeError
        following = body["next"]
        return Parts(
            upload=str(body["upload"]),
            links=tuple(_link(each) for each in _list(body["parts"])),
            held={int(each["number"]): str(each["etag"]) for each in _list(body["held"])},
            held_bytes=sum(int(each["size"]) for each in _list(body["held"])),
            following=None if following is None else int(following),
            done=bool(body["done"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _unexpected("parts of an upload that cannot be read") from error


def _list(value: object) -> Sequence[Mapping[str, str]]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _link(each: Mapping[str, str]) -> PartLink:
    return PartLink(
        number=int(each["number"]),
        offset=int(each["offset"]),
        size=int(each["size"]),
        url=str(each["url"]),
    )


def _unexpected(what: str) -> CliError:
    return CliError(
        f"the control plane sent {what}",
        cure="check that this waypost and the control plane are of the same time",
    )
