"""The REST calls the CLI makes, one method each. Decides paths, bodies and which calls may be
repeated; it must not know what is printed."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl, quote, urlsplit

from waypost_cli.errors import CliError
from waypost_cli.transport import ATTEMPTS, READ_TIMEOUT_SECONDS, Answer, Transport
from waypost_cli.upload_api import UploadApi

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
        self.uploads = UploadApi(transport)

    def create_version(
        self,
        *,
        model: str,
        version: str | None,
        manifest: Document,
        labels: Mapping[str, str],
        lineage: Document | None = None,
    ) -> Document:
        body = _version_body(version, manifest, labels, lineage)
        # The same manifest finds the same version again, so a repetition makes no second one.
        return _document(self._post(f"/models/{_q(model)}/versions", body))

    def try_version(
        self,
        *,
        model: str,
        version: str | None,
        manifest: Document,
        labels: Mapping[str, str],
        lineage: Document | None,
        texts: Mapping[str, str],
    ) -> Document:
        """What `create_version` and all after it would come to; keeps nothing. `texts`: of the
        small files whose content is judged, by path."""
        body = {**_version_body(version, manifest, labels, lineage), "texts": dict(texts)}
        answer = self._transport.request(
            "POST", f"/models/{_q(model)}/versions", query={"dry_run": "true"}, json=body
        )
        return _document(answer)

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
        # Again it changes nothing, and reading a large model may take its time.
        return _document(self._post(path, {}, named=False))

    def put_signature(self, *, model: str, version: str, signature: bytes) -> Document:
        """The same again changes nothing. The bytes go as they are: the control plane reads them
        more strictly than a JSON library would."""
        answer = self._transport.request(
            "PUT",
            f"/models/{_q(model)}/versions/{_q(version)}/signature",
            content=lambda: [signature],
            headers={"Content-Length": str(len(signature)), "Content-Type": "application/json"},
        )
        return _document(answer)

    def list_signing_keys(self) -> list[Document]:
        return list(self._pages("/signing-keys", {}))

    def add_signing_key(self, *, name: str, public_key: str) -> Document:
        body = {"name": name, "public_key": public_key}
        return _document(self._post("/signing-keys", body))

    def revoke_signing_key(self, name: str, *, reason: str) -> Document:
        path = f"/signing-keys/{_q(name)}/revoke"
        return _document(self._post(path, {"reason": reason}))

    def link_model(self, model: str, link: Document) -> Document:
        """The same link again is the same link."""
        path = f"/models/{_q(model)}/registry-links"
        return _document(self._post(path, link))

    def list_links(self, model: str) -> list[Document]:
        return list(self._pages(f"/models/{_q(model)}/registry-links", {}))

    def unlink_model(self, model: str, link_id: str) -> None:
        path = f"/models/{_q(model)}/registry-links/{_number(link_id, 'link', 'links MODEL')}"
        self._transport.request("DELETE", path, attempts=1)

    def import_version(self, model: str, asked: Document) -> Document:
        """An import that is under way, or over, is asked for again without harm."""
        return _document(self._post(f"/models/{_q(model)}/imports", asked))

    def get_import(self, model: str, import_id: str) -> Document:
        path = f"/models/{_q(model)}/imports/{_number(import_id, 'import', 'imports MODEL')}"
        return _document(self._transport.request("GET", path))

    def list_imports(self, model: str, *, limit: int) -> list[Document]:
        """Newest first."""
        return list(itertools.islice(self._pages(f"/models/{_q(model)}/imports", {}), limit))

    def list_sites(self, filters: Mapping[str, str]) -> list[Document]:
        return list(self._pages("/sites", filters))

    def add_site(self, site: Document) -> Document:
        return _document(self._post("/sites", site))

    def make_enrolment_token(self, site: str) -> Document:
        return _document(self._post(f"/sites/{_q(site)}/enrolment-tokens", {}))

    def ask_for_new_key(self, site: str, by: str | None) -> Document:
        body = {} if by is None else {"by": by}
        return _document(self._post(f"/sites/{_q(site)}/agent/new-key", body))

    def unlock_agent(self, site: str, reason: str) -> Document:
        return _document(self._post(f"/sites/{_q(site)}/agent/unlock", {"reason": reason}))

    def start_rollout(self, asked: Document) -> Document:
        return _document(self._post("/rollouts", asked))

    def plan_rollout(self, asked: Document) -> Document:
        """What `start_rollout` would do. Changes nothing, so it may be asked again."""
        answer = self._transport.request(
            "POST",
            "/rollouts",
            query={"dry_run": "true"},
            json=asked,
            attempts=ATTEMPTS,
            read_timeout_seconds=READ_TIMEOUT_SECONDS,
        )
        return _document(answer)

    def list_rollouts(self, filters: Mapping[str, str], *, limit: int) -> list[Document]:
        return list(itertools.islice(self._pages("/rollouts", filters), limit))

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

    def tell_rollout(self, rollout_id: str, *, verb: str, body: Document) -> Document:
        return _document(self._post(f"/rollouts/{_number(rollout_id)}/{verb}", body))

    def list_events(self, rollout_id: str, *, limit: int) -> list[Document]:
        """Newest first."""
        path = f"/rollouts/{_number(rollout_id)}/events"
        return list(itertools.islice(self._pages(path, {}), limit))

    def set_verdict(self, rollout_id: str, *, stage: str, gate: str, verdict: Document) -> Document:
        path = f"/rollouts/{_number(rollout_id)}/stages/{_q(stage)}/gates/{_q(gate)}"
        # The same verdict again is the same verdict.
        return _document(self._transport.request("PUT", path, json=verdict))

    def list_freezes(self, filters: Mapping[str, str]) -> list[Document]:
        return list(self._pages("/freezes", filters))

    def freeze(self, asked: Document) -> Document:
        return _document(self._post("/freezes", asked))

    def lift_freeze(self, freeze_id: str, *, reason: str | None) -> Document:
        path = f"/freezes/{_number(freeze_id, 'freeze', 'freeze list')}/lift"
        return _document(self._post(path, _reason(reason)))

    def get_budget(self) -> Document:
        return _document(self._transport.request("GET", "/budget"))

    def set_budget(self, budget: Document) -> Document:
        return _document(self._transport.request("PUT", "/budget", json=budget))

    def list_strategies(self) -> list[Document]:
        answer = self._transport.request("GET", "/strategies")
        if not isinstance(answer.body, list):
            raise _unexpected("no list of strategies")
        return [_checked(entry) for entry in answer.body]

    def get_strategy(self, name: str, version: str | None) -> Document:
        query = {"version": version} if version else {}
        answer = self._transport.request("GET", f"/strategies/{_q(name)}", query=query)
        return _document(answer)

    def create_strategy(self, strategy: Document) -> Document:
        return _document(self._post("/strategies", strategy))

    def retire_strategy(self, name: str, *, reason: str | None) -> Document:
        path = f"/strategies/{_q(name)}/retire"
        return _document(self._post(path, _reason(reason)))

    def get_version(self, model: str, version: str) -> Document:
        path = f"/models/{_q(model)}/versions/{_q(version)}"
        return _document(self._transport.request("GET", path))

    def list_versions(self, model: str) -> list[Document]:
        return list(self._pages(f"/models/{_q(model)}/versions", {}))

    def change_version(self, model: str, version: str, body: Document) -> Document:
        path = f"/models/{_q(model)}/versions/{_q(version)}"
        return _document(self._transport.request("PATCH", path, json=body))

    def list_channels(self, model: str) -> list[Document]:
        return list(self._pages(f"/models/{_q(model)}/channels", {}))

    def move_channel(self, model: str, channel: str, body: Document) -> Document:
        path = f"/models/{_q(model)}/channels/{_q(channel)}"
        # To where it is already it changes nothing.
        return _document(self._transport.request("PUT", path, json=body))

    def remove_channel(self, model: str, channel: str) -> None:
        path = f"/models/{_q(model)}/channels/{_q(channel)}"
        self._transport.request("DELETE", path, attempts=1)

    def tell_version(self, model: str, version: str, *, verb: str, body: Document) -> Document:
        """`quarantine`, `release`, `approve`, `withdraw-approval`, `retire` or `unretire`."""
        path = f"/models/{_q(model)}/versions/{_q(version)}/{verb}"
        return _document(self._post(path, body))

    def fit(self, model: str, version: str, query: Mapping[str, str]) -> Document:
        """Which sites can take the version."""
        path = f"/models/{_q(model)}/versions/{_q(version)}/fit"
        return _document(self._transport.request("GET", path, query=dict(query)))

    def waive_triton_floor(self, site: str, reason: str) -> Document:
        path = f"/sites/{_q(site)}/triton-floor-waiver"
        return _document(self._post(path, {"reason": reason}))

    def restore_triton_floor(self, site: str, reason: str) -> None:
        path = f"/sites/{_q(site)}/triton-floor-waiver"
        query = {"reason": reason} if reason else {}
        self._transport.request("DELETE", path, query=query)

    def set_drift_policy(self, model: str, body: Document) -> Document:
        return _document(self._transport.request("PATCH", f"/models/{_q(model)}", json=body))

    def list_drift(self, filters: Mapping[str, str]) -> list[Document]:
        return list(self._pages("/drift", filters))

    def tell_site_model(self, site: str, model: str, *, verb: str, reason: str | None) -> Document:
        """`pin` or `unpin`."""
        path = f"/sites/{_q(site)}/models/{_q(model)}/{verb}"
        return _document(self._post(path, _reason(reason)))

    def list_tokens(self, filters: Mapping[str, str]) -> list[Document]:
        return list(self._pages("/tokens", filters))

    def create_token(self, asked: Document) -> Document:
        return _document(self._post("/tokens", asked))

    def revoke_token(self, token_id: str, *, reason: str | None) -> Document:
        path = f"/tokens/{_number(token_id, 'token', 'tokens list')}/revoke"
        return _document(self._post(path, _reason(reason)))

    def list_publishers(self) -> list[Document]:
        return list(self._pages("/publishers", {}))

    def add_publisher(self, asked: Document) -> Document:
        return _document(self._post("/publishers", asked))

    def revoke_publisher(self, name: str, *, reason: str | None) -> Document:
        path = f"/publishers/{_q(name)}/revoke"
        return _document(self._post(path, _reason(reason)))

    def _post(self, path: str, body: Document, *, named: bool = True) -> Answer:
        """`named`: however often it is sent, it happens once."""
        return self._transport.request(
            "POST",
            path,
            json=body,
            once=named,
            read_timeout_seconds=READ_TIMEOUT_SECONDS,
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


def _version_body(
    version: str | None,
    manifest: Document,
    labels: Mapping[str, str],
    lineage: Document | None,
) -> dict[str, object]:
    body: dict[str, object] = {"manifest": manifest}
    if version is not None:
        body["version"] = version
    if labels:
        body["labels"] = labels
    if lineage:
        body["lineage"] = lineage
    return body


def _q(part: str) -> str:
    if part in ("", ".", "..") or "/" in part:
        raise CliError(f"{part!r} is not a name", cure="see `waypost --help`")
    return quote(part, safe="")


def _number(text: str, what: str = "rollout", where: str = "rollout list") -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,17}", text):
        raise CliError(
            f"{text!r} is not the number of a {what}",
            cure=f"see the numbers with `waypost {where}`",
        )
    return text


def _reason(reason: str | None) -> dict[str, object]:
    return {"reason": reason} if reason else {}


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
