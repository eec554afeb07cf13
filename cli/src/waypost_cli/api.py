"""The REST calls the CLI makes, one method each. Decides paths, bodies and which calls may be
repeated; it must not know what is printed."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl, quote, urlsplit

from waypost_cli.errors import CliError
from waypost_cli.transport import ATTEMPTS, READ_TIMEOUT_SECONDS, Answer, Transport

Document = Mapping[str, object]

# The server hashes and syncs a blob before it answers.
_BLOB_TIMEOUT_SECONDS = 300.0
_LONG_POLL_GRACE_SECONDS = 15.0


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A rollout and the revision it stood at; `rollout` is None when nothing changed."""

    rollout: Document | None
    etag: str | None


class Api:
    """Raises what `Transport.request` raises, and `CliError` for an answer of another shape."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create_version(
        self, *, model: str, version: str | None, manifest: Document, labels: Mapping[str, str]
    ) -> Document:
        body: dict[str, object] = {"manifest": manifest}
        if version is not None:
            body["version"] = version
        if labels:
            body["labels"] = labels
        # The same manifest finds the same version again, so a repetition makes no second one.
        return _document(self._post(f"/models/{_q(model)}/versions", body, attempts=ATTEMPTS))

    def put_blob(
        self,
        *,
        model: str,
        version: str,
        sha256: str,
        size_bytes: int,
        content: Callable[[], Iterable[bytes]],
    ) -> None:
        self._transport.request(
            "PUT",
            f"/models/{_q(model)}/versions/{_q(version)}/blobs/{sha256}",
            content=content,
            headers={
                "Content-Length": str(size_bytes),
                "Content-Type": "application/octet-stream",
            },
            read_timeout_seconds=_BLOB_TIMEOUT_SECONDS,
        )

    def finalise_version(self, *, model: str, version: str) -> Document:
        path = f"/models/{_q(model)}/versions/{_q(version)}/finalise"
        return _document(self._post(path, {}, attempts=ATTEMPTS))

    def list_sites(self, filters: Mapping[str, str]) -> list[Document]:
        return list(self._pages("/sites", filters))

    def add_site(self, site: Document) -> Document:
        return _document(self._post("/sites", site, attempts=1))

    def make_enrolment_token(self, site: str) -> Document:
        return _document(self._post(f"/sites/{_q(site)}/enrolment-tokens", {}, attempts=1))

    def start_rollout(
        self,
        *,
        model: str,
        version: str,
        stages: Sequence[Document] | None,
        note: str | None,
        expect_plan: str | None,
    ) -> Document:
        body: dict[str, object] = {"model": model, "version": version}
        for key, value in (("stages", stages), ("note", note), ("expect_plan", expect_plan)):
            if value is not None:
                body[key] = value
        return _document(self._post("/rollouts", body, attempts=1))

    def plan_rollout(
        self, *, model: str, version: str, stages: Sequence[Document] | None
    ) -> Document:
        """What `start_rollout` would do. Changes nothing, so it may be asked again."""
        body: dict[str, object] = {"model": model, "version": version}
        if stages is not None:
            body["stages"] = stages
        answer = self._transport.request(
            "POST",
            "/rollouts",
            query={"dry_run": "true"},
            json=body,
            attempts=ATTEMPTS,
            read_timeout_seconds=READ_TIMEOUT_SECONDS,
        )
        return _document(answer)

    def list_rollouts(self, filters: Mapping[str, str], *, limit: int) -> list[Document]:
        found: list[Document] = []
        for rollout in self._pages("/rollouts", filters):
            if len(found) == limit:
                break
            found.append(rollout)
        return found

    def get_rollout(self, rollout_id: str) -> Watched:
        return _watched(self._transport.request("GET", f"/rollouts/{_number(rollout_id)}"))

    def watch_rollout(self, rollout_id: str, *, etag: str | None, wait_seconds: int) -> Watched:
        """Waits up to `wait_seconds` (at most 30) for another revision. Tries once."""
        answer = self._transport.request(
            "GET",
            f"/rollouts/{_number(rollout_id)}",
            query={"wait": str(wait_seconds)} if etag else {},
            headers={"If-None-Match": etag} if etag else {},
            read_timeout_seconds=wait_seconds + _LONG_POLL_GRACE_SECONDS,
            attempts=1,
        )
        return _watched(answer)

    def tell_rollout(self, rollout_id: str, *, verb: str, reason: str | None) -> Document:
        body = {"reason": reason} if reason else {}
        return _document(self._post(f"/rollouts/{_number(rollout_id)}/{verb}", body, attempts=1))

    def _post(self, path: str, body: Document, *, attempts: int) -> Answer:
        return self._transport.request(
            "POST", path, json=body, attempts=attempts, read_timeout_seconds=READ_TIMEOUT_SECONDS
        )

    def _pages(self, path: str, filters: Mapping[str, str]) -> Iterator[Document]:
        query: dict[str, str] | None = dict(filters)
        while query is not None:
            page = _document(self._transport.request("GET", path, query=query))
            results = page.get("results")
            if not isinstance(results, list):
                raise _unexpected("a page without results")
            yield from (_checked(result) for result in results)
            # Only the query of `next` is used: its host may be an inner name of a proxy, and the
            # token must not follow a link to another server.
            following = page.get("next")
            asked, query = query, None
            if isinstance(following, str):
                query = dict(parse_qsl(urlsplit(following).query))
                if query == asked:
                    raise _unexpected("a page that names itself as the next one")


def _q(part: str) -> str:
    if part in ("", ".", "..") or "/" in part:
        raise CliError(f"{part!r} is not a name", cure="see `waypost --help`")
    return quote(part, safe="")


def _number(rollout_id: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,17}", rollout_id):
        raise CliError(
            f"{rollout_id!r} is not the number of a rollout",
            cure="see the numbers with `waypost rollout list`",
        )
    return rollout_id


def _document(answer: Answer) -> Document:
    return _checked(answer.body)


def _watched(answer: Answer) -> Watched:
    rollout = None if answer.status == 304 else _document(answer)
    return Watched(rollout=rollout, etag=answer.etag)


def _checked(body: object) -> Document:
    if body is None:
        raise _unexpected("an empty answer")
    if not isinstance(body, Mapping):
        raise _unexpected(f"a JSON {type(body).__name__} in place of an object")
    return cast(Document, body)


def _unexpected(what: str) -> CliError:
    return CliError(
        f"the control plane sent {what}",
        cure="check that this waypost and the control plane are of the same time",
    )
