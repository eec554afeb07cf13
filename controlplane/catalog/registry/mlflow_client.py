"""MLflow's model registry through its own client package, `mlflow-skinny`: that knows the paths,
the messages and their types. The bytes go through `RegistryHttp`, which bounds them; MLflow's own
transport follows redirects, reads answers of any size and is steered by the environment.

Nothing is imported from MLflow until the first call: it takes a second and 76 MB, which only the
worker of imports has to pay."""

import json
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from controlplane.catalog.registry import MAX_TAGS, Refused, Unavailable, Watched
from controlplane.catalog.registry.http import Answered, RegistryHttp

_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND")
_MAX_TEXT = 2000
_MAX_NAMES = 1000


class MlflowClient:
    """The calls that are needed, with answers of plain values that are bounded in length."""

    def __init__(self, http: RegistryHttp) -> None:
        self._store = _store_class()(http)

    def version(self, name: str, version: str) -> dict[str, Any]:
        """Raises `Refused` when the registry knows no such version."""
        return _plain(self._ask(f"version {version} of {name}", "get_model_version", name, version))

    def version_by_alias(self, name: str, alias: str) -> dict[str, Any]:
        what = f"alias {alias} of {name}"
        return _plain(self._ask(what, "get_model_version_by_alias", name, alias))

    def version_by_stage(self, name: str, stage: str) -> dict[str, Any]:
        found = self._ask(f"stage {stage} of {name}", "get_latest_versions", name, [stage])
        if not found:
            raise Refused(f"No version of {name} is in the stage {stage}.")
        return _plain(found[0])

    def watched(self, name: str) -> Watched:
        """All aliases and stages of a model: one call, whatever their number."""
        model = self._ask(f"the model {name}", "get_registered_model", name)
        aliases = dict(list(dict(model.aliases).items())[:_MAX_NAMES])
        stages = {str(v.current_stage): str(v.version) for v in model.latest_versions[:_MAX_NAMES]}
        return Watched(
            aliases={str(alias): str(version) for alias, version in aliases.items()},
            stages={stage: version for stage, version in stages.items() if stage != "None"},
        )

    def location(self, name: str, version: str) -> str:
        """Where the files lie; it follows `models:/m-…` sources."""
        what = f"version {version} of {name}"
        return _text(self._ask(what, "get_model_version_download_uri", name, version))

    def set_tags(self, name: str, version: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities.model_registry import ModelVersionTag

        for key, value in tags.items():
            tag = ModelVersionTag(key, value)
            self._ask(f"version {version} of {name}", "set_model_version_tag", name, version, tag)

    def _ask(self, what: str, call: str, *arguments: Any) -> Any:
        try:
            return getattr(self._store, call)(*arguments)
        except Answered as answered:
            if answered.code in _UNKNOWN or answered.status == 404:
                said = f": {answered.message}" if answered.message else "."
                raise Refused(f"The registry does not know {what}{said}") from answered
            raise Unavailable(f"The registry was asked for {what}, and {answered}.") from answered
        except (Unavailable, Refused):
            raise
        except Exception as error:  # what a parser of hostile messages may raise has no end
            raise Unavailable(f"The registry's answer for {what} cannot be understood.") from error


@cache
def _store_class() -> Any:
    # Its own reports of use would go to a public host.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.store.model_registry.rest_store import RestStore
    from mlflow.utils.proto_json_utils import parse_dict

    class BoundedStore(RestStore):  # type: ignore[misc]  # untyped inside, so not looked at
        """MLflow's client of a registry over our transport."""

        def __init__(self, http: RegistryHttp) -> None:
            super().__init__(_no_credentials)
            self._http = http

        def _call_endpoint(
            self,
            api: Any,
            json_body: str | None,
            call_all_endpoints: bool = False,
            extra_headers: Mapping[str, str] | None = None,
        ) -> Any:
            message = self._get_response_from_method(api)
            path, method = self._get_endpoint_from_method(api)
            fields = json.loads(json_body) if json_body else {}
            if method == "GET":
                document = self._http.json(method, path, query=_query(fields))
            elif path.endswith("/get-latest-versions"):
                # MLflow's server takes both; a GET cannot carry the list of stages as a query.
                document = self._http.json("POST", path, body=fields)
            else:
                document = self._http.json(method, path, body=fields)
            parse_dict(js_dict=document, message=message)
            return message

    return BoundedStore


def _no_credentials() -> Any:
    raise RuntimeError("the transport holds the credentials")


def _query(fields: Mapping[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in fields.items()}


def _plain(version: Any) -> dict[str, Any]:
    """What of a version counts here."""
    tags = dict(list(dict(version.tags or {}).items())[:MAX_TAGS])
    return {
        "version": _text(version.version),
        "source": _text(version.source),
        "run_id": _text(version.run_id),
        "status": _text(version.status),
        "tags": {_text(key): _text(value) for key, value in tags.items()},
    }


def _text(value: object) -> str:
    """PostgreSQL keeps no NUL and no UTF-8 half a surrogate pair."""
    text = "" if value is None else str(value)
    return text[:_MAX_TEXT].replace("\0", "").encode("utf-8", "replace").decode()
