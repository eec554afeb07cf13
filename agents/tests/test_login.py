"""Sessions and the change of the key: whatever is lost on the way, the site gets in again."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_centre import AGENT, TOKEN, FakeCentre, Handler, problem
from waypost_agent import identity as identity_module
from waypost_agent.centre import Centre, CentreAnswer, CentreProblem, CentreSilent
from waypost_agent.errors import ConfigError
from waypost_agent.identity import Identity
from waypost_agent.login import Login

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "protocol"
BY = "2026-12-01T00:00:00Z"


class Died(BaseException):
    """Stands for SIGKILL: nothing in the agent may catch it."""


class Cut:
    """Counts the steps that leave a trace, and lets the process die before or after one of them.

    `lost` is the number of the call whose answer does not arrive.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.die_at: int | None = None
        self.lost: int | None = None
        self.after = False

    def around(self, name: str, act: Callable[[], Any]) -> Any:
        self.steps.append(name)
        here = len(self.steps) - 1 == self.die_at
        if here and not self.after:
            raise Died
        result = act()
        if here:
            raise Died
        if len(self.steps) - 1 == self.lost:
            raise CentreSilent("the answer is lost")
        return result


class CutCentre(Centre):
    cut: Cut

    def post(self, path: str, document: Any, *, token: str | None = None) -> CentreAnswer:
        send = super().post
        answer: CentreAnswer = self.cut.around(path, lambda: send(path, document, token=token))
        return answer


class Site:
    """One agent that joined, started anew as often as the test likes."""

    def __init__(self, fake: FakeCentre, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake = fake
        self.folder = folder
        self.cut = Cut()
        self.identity = Identity(folder)
        self.centre = CutCentre(
            fake.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=2.0
        )
        self.centre.cut = Cut()
        body = {"token": TOKEN, "public_key": self.identity.public_key()}
        self.centre.post("enrol", {**body, "agent_version": "0", "hostname": "h"})
        self.centre.cut = self.cut
        for name in ("write_durably", "sync_folder"):
            self._watch(name, monkeypatch)
        rename = identity_module.os.rename
        monkeypatch.setattr(
            identity_module.os,
            "rename",
            lambda source, target: (
                self.cut.around("adopt", lambda: rename(source, target))
                if str(source).endswith("agent.key.next")
                else rename(source, target)
            ),
        )
        self.start()

    def _watch(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = getattr(identity_module, name)
        monkeypatch.setattr(
            identity_module,
            name,
            lambda *args, **options: self.cut.around(name, lambda: real(*args, **options)),
        )

    def start(self) -> None:
        self.identity = Identity(self.folder)
        self.login = Login(self.centre, self.identity, AGENT)

    def key(self) -> str:
        return Identity(self.folder).public_key()


@pytest.fixture
def site(centre: FakeCentre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(centre, tmp_path, monkeypatch)
    yield site
    site.centre.close()


def test_a_session_without_a_word_about_the_key_leaves_it_alone(site: Site) -> None:
    before = site.key()
    site.login.open_session()
    assert site.key() == before == site.fake.public_key
    assert not site.identity.has_next_key()
    assert "rotate-key" not in site.cut.steps


def test_a_key_that_is_asked_for_is_made_signed_and_used(site: Site) -> None:
    before, site.fake.rotate_by = site.key(), BY
    session = site.login.open_session()
    assert site.key() == site.fake.public_key != before
    assert session.token == site.fake.session
    assert not site.identity.has_next_key()
    assert (site.folder / "agent.key").stat().st_mode & 0o777 == 0o600


def test_the_new_key_is_on_disk_beside_the_old_one_before_the_centre_hears_of_it(
    site: Site,
) -> None:
    site.fake.rotate_by = BY
    seen: list[bool] = []

    def look(handler: Handler) -> bool:
        seen.append(site.identity.has_next_key() and (site.folder / "agent.key").exists())
        return False

    site.fake.sabotage["rotate-key"] = look
    site.login.open_session()
    assert seen == [True]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(12))
def test_a_process_that_dies_at_any_step_of_a_rotation_ends_with_one_key_both_sides_know(
    step: int, after: bool, site: Site
) -> None:
    site.fake.rotate_by = BY
    site.cut.die_at, site.cut.after = step, after
    try:
        site.login.open_session()
    except Died:
        site.start()
    else:
        assert step >= len(site.cut.steps), "the walk covers every step"
    site.cut.die_at = None

    session = site.login.open_session()

    assert session.token == site.fake.session
    assert site.key() == site.fake.public_key
    assert not site.identity.has_next_key()
    assert site.fake.rotate_by is None


def test_the_walk_above_is_long_enough(site: Site) -> None:
    site.fake.rotate_by = BY
    site.login.open_session()
    assert len(site.cut.steps) == 11, site.cut.steps


@pytest.mark.parametrize("lost", range(11))
def test_any_answer_may_be_lost_and_any_write_fail_once_it_is_done(lost: int, site: Site) -> None:
    site.fake.rotate_by = BY
    site.cut.lost = lost
    for _ in range(3):
        try:
            session = site.login.open_session()
        except CentreSilent:
            continue
    session = site.login.open_session()
    assert session.token == site.fake.session
    assert site.key() == site.fake.public_key
    assert not site.identity.has_next_key()


@pytest.mark.parametrize(
    "answer",
    [
        (404, {"type": "about:blank", "status": 404, "code": "not-found", "detail": "old"}),
        (404, {}),
        (500, {}),
        (422, {"type": "about:blank", "status": 422, "code": "invalid-request", "detail": "no"}),
        (200, {"public_key": "A" * 43 + "="}),
        (200, {}),
    ],
    ids=str,
)
def test_a_rotation_that_fails_never_costs_the_session(
    answer: tuple[int, dict[str, Any]], site: Site
) -> None:
    before, site.fake.rotate_by = site.key(), BY

    def refuse(handler: Handler) -> bool:
        handler.send_json(*answer)
        return True

    site.fake.sabotage["rotate-key"] = refuse
    assert site.login.open_session().token == site.fake.session
    assert site.key() == before
    asked = [path for _, path, _ in site.fake.requests].count("rotate-key")
    assert asked == 1

    del site.fake.sabotage["rotate-key"]
    site.login.open_session()
    assert site.key() == site.fake.public_key != before


def test_a_key_that_rotted_on_disk_never_costs_the_session(site: Site) -> None:
    next_key = site.folder / "agent.key.next"
    next_key.write_text("bm90IGEga2V5")
    next_key.chmod(0o600)
    assert site.login.open_session().token == site.fake.session
    with pytest.raises(ConfigError, match="another one will be made"):
        site.identity.sign_rotation(AGENT, "n")


def test_a_key_that_nobody_knows_is_refused_and_none_is_thrown_away(site: Site) -> None:
    site.fake.public_key = base64.b64encode(b"\1" * 32).decode()
    before = site.key()
    with pytest.raises(CentreProblem) as caught:
        site.login.open_session()
    assert caught.value.code == problem(401, "signature-invalid")[1]["code"]
    assert site.key() == before


def test_the_documented_rotation_is_signed(tmp_path: Path) -> None:
    vector = json.loads((EXAMPLES / "rotate-key-signatures.json").read_text())
    for name, private in (
        ("agent.key", vector["old_private_key_hex"]),
        ("agent.key.next", vector["new_private_key_hex"]),
    ):
        (tmp_path / name).write_text(base64.b64encode(bytes.fromhex(private)).decode())
        (tmp_path / name).chmod(0o600)
    rotation = Identity(tmp_path).sign_rotation(vector["agent"], vector["nonce"])
    request = json.loads((EXAMPLES / "rotate-key-request.json").read_text())
    body = {"agent": vector["agent"], "nonce": vector["nonce"], **vars(rotation)}
    assert body == request
