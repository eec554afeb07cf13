"""`GET /agent/v1/blobs/<sha256>/chunks`: for whoever may read the file; and its patches."""

import gzip
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from controlplane.api.agent_v1 import chunks
from controlplane.catalog.chunk_maps import make_chunk_maps
from controlplane.catalog.models import Patch, Version
from controlplane.domain.rollout import RolloutState
from tests.api.calls import AgentCaller, assert_problem
from tests.factories import make_joined_site, make_rollout, make_version, version_files
from tests.unit.model_files import safetensors

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol"
FILE = "model.safetensors"
LAYER = np.random.default_rng(1).standard_normal(600_000, dtype=np.float32).astype(np.float16)


def model_file(scale: float) -> bytes:
    return safetensors({"w": ("F16", (LAYER * scale).astype(np.float16).tobytes())})


OLD, NEW = model_file(1.0), model_file(1.01)
DIGEST = hashlib.sha256(NEW).hexdigest()


def register(data: bytes, now: datetime) -> Version:
    return make_version(files={**version_files(str(len(data))), FILE: data}, now=now)


@pytest.fixture
def edge(db: None, now: datetime) -> AgentCaller:
    """An agent with a session, whose site should serve the newer of two versions."""
    register(OLD, now)
    version = register(NEW, now)
    agent = make_joined_site("edge-1", now=now)
    agent.open_session(now=now)
    make_rollout(RolloutState.RUNNING, version=version, agents=[agent], now=now)
    return AgentCaller(client=Client(), agent=agent)


@pytest.fixture
def packed(edge: AgentCaller, now: datetime) -> AgentCaller:
    """The same once the work on the maps is done."""
    make_chunk_maps(now=now, keep_going=lambda: True)
    return edge


@pytest.fixture
def stranger(edge: AgentCaller, now: datetime) -> AgentCaller:
    """An agent of a site where nothing is wished for."""
    agent = make_joined_site("other", now=now)
    agent.open_session(now=now)
    return AgentCaller(client=Client(), agent=agent)


def get(caller: AgentCaller, path: str, **headers: str) -> Any:
    return Client().get(f"/agent/v1/{path}", headers={**caller.headers, **headers})


def test_the_map_has_the_form_of_the_golden_example(packed: AgentCaller) -> None:
    response = get(packed, f"blobs/{DIGEST}/chunks")
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
    document = response.json()
    golden = json.loads((PROTOCOL / "chunks-answer.json").read_text())
    assert set(document) == set(golden)
    assert (document["schema"], document["file"]) == (golden["schema"], DIGEST)
    assert document["size"] == len(NEW) == sum(c["length"] for c in document["chunks"])
    assert [set(chunk) for chunk in document["chunks"]] == [set(golden["chunks"][0])] * 2
    (patch, *_) = document["chunks"][1]["patches"]
    assert set(patch) == set(golden["chunks"][1]["patches"][0])


def test_an_unchanged_map_is_not_sent_again(packed: AgentCaller) -> None:
    tag = get(packed, f"blobs/{DIGEST}/chunks")["ETag"]
    again = get(packed, f"blobs/{DIGEST}/chunks", **{"If-None-Match": tag})
    assert (again.status_code, again.content, again["ETag"]) == (304, b"", tag)
    other = get(packed, f"blobs/{DIGEST}/chunks", **{"If-None-Match": '"other"'})
    assert other.status_code == 200


def test_a_small_map_is_sent_as_it_is_and_a_large_one_packed(
    packed: AgentCaller, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"blobs/{DIGEST}/chunks"
    plain = get(packed, path, **{"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    monkeypatch.setattr(chunks, "_SMALL_BYTES", 100)
    large = get(packed, path, **{"Accept-Encoding": "gzip, br"})
    assert large["Content-Encoding"] == "gzip"
    assert gzip.decompress(large.content) == plain.content == get(packed, path).content
    assert large["ETag"] == plain["ETag"]


def test_a_file_without_a_map_says_so(edge: AgentCaller) -> None:
    assert_problem(edge.get(f"blobs/{DIGEST}/chunks"), 404, "chunks-unknown")


def test_the_map_of_a_file_of_another_site_is_unknown(
    packed: AgentCaller, stranger: AgentCaller
) -> None:
    assert_problem(stranger.get(f"blobs/{DIGEST}/chunks"), 404, "blob-unknown")
    assert_problem(packed.get(f"blobs/{'0' * 64}/chunks"), 404, "blob-unknown")
    assert_problem(Client().get(f"/agent/v1/blobs/{DIGEST}/chunks"), 401, "session-invalid")


def test_a_patch_is_given_like_a_file_to_the_sites_of_its_file_alone(
    packed: AgentCaller, stranger: AgentCaller
) -> None:
    patch = Patch.objects.exclude(base_sha256="").get(chunk_map=DIGEST)

    async def fetch(**headers: str) -> tuple[int, bytes]:
        response = await AsyncClient().get(
            f"/agent/v1/blobs/{patch.sha256}", headers={**packed.headers, **headers}
        )
        return response.status_code, b"".join([part async for part in response.streaming_content])

    status, whole = async_to_sync(fetch)()
    assert (status, hashlib.sha256(whole).hexdigest()) == (200, patch.sha256)
    assert async_to_sync(fetch)(Range="bytes=7-") == (206, whole[7:])
    assert_problem(stranger.get(f"blobs/{patch.sha256}"), 404, "blob-unknown")
    assert_problem(packed.get(f"blobs/{patch.sha256}/chunks"), 404, "blob-unknown")
