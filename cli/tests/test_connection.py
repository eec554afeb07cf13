"""What a person reads when the control plane cannot be reached, refuses, or is not there."""

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Waypost
from fake_api import TOKEN, FakeApi, Reply, problem
from waypost_cli.connection import make_connection
from waypost_cli.errors import CliError

PORTAL = Reply(status=200, body=b"<html>Please log in</html>", content_type="text/html")


def test_a_refused_connection_is_named_at_once(waypost: Waypost) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

    ran = waypost("sites", "--url", f"http://127.0.0.1:{port}")

    assert ran.exit_code == 1
    assert f"nothing listens at http://127.0.0.1:{port} (connection refused)" in ran.stderr
    assert "check --url (WAYPOST_URL)" in ran.stderr


@pytest.mark.parametrize(
    ("reply", "message", "cure"),
    [
        (problem(401, "token-expired"), "Token expired", "make a new one in the console"),
        (problem(403, "scope-missing"), "Scope missing", "use one that has the scope"),
        (PORTAL, "HTTP 200 with text/html, not with a Waypost answer", "a login page"),
        (
            Reply(status=404, body=b"no", content_type="text/plain"),
            "HTTP 404 with text/plain, not with a Waypost answer",
            "check --url",
        ),
        (
            Reply(status=302, body=b"", headers={"Location": "https://login.example/"}),
            "redirects to https://login.example/",
            "a login page",
        ),
        (
            Reply(status=401, body=b"no", content_type="text/html"),
            "answered HTTP 401 (text/html)",
            "the token is wrong",
        ),
        (Reply(status=200, body=b""), "an empty answer", "the same time"),
        (Reply(status=200, body=b"[1]"), "a JSON list in place of an object", "the same time"),
        (Reply(status=200, body=b'{"results": 3}'), "a page without results", "the same time"),
    ],
)
def test_an_answer_that_is_of_no_use_is_explained_with_its_cure(
    waypost: Waypost, fake: FakeApi, reply: Reply, message: str, cure: str
) -> None:
    fake.intervene("GET", "sites", reply)

    ran = waypost("sites")

    assert ran.exit_code == 1
    assert ran.stdout == ""
    assert message in ran.stderr
    assert cure in ran.stderr.split("cure:")[1]


def test_a_server_that_speaks_no_http_is_named(waypost: Waypost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def hang_up() -> None:
            with listener.accept()[0] as connection:
                connection.recv(9999)

        server = threading.Thread(target=hang_up)
        server.start()
        ran = waypost("sites", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}")
        server.join()

    assert ran.exit_code == 1
    assert "closed the connection without an HTTP answer" in ran.stderr


def test_the_token_is_never_shown_even_if_the_server_repeats_it(
    waypost: Waypost, fake: FakeApi
) -> None:
    fake.intervene("GET", "sites", problem(401, "token-invalid", detail=f"bad {TOKEN}"))

    ran = waypost("sites")

    assert TOKEN not in ran.stdout + ran.stderr
    assert "bad [token]" in ran.stderr


@pytest.mark.parametrize("token", ["", "two words", "wpt_caf\u00e9", "a\nb"])
def test_a_token_that_cannot_be_one_is_refused_without_showing_it(
    waypost: Waypost, fake: FakeApi, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAYPOST_TOKEN", token)

    ran = waypost("sites")

    assert ran.exit_code == 1
    assert "API token" in ran.stderr
    assert not token or token not in ran.stderr
    assert fake.seen == []


def test_options_win_over_the_environment_and_the_nearest_wins(
    waypost: Waypost, fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAYPOST_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("WAYPOST_TOKEN", "wpt_other")

    before = waypost("--url", fake.url, "--token", TOKEN, "-o", "json", "sites")
    between = waypost("--url", "http://127.0.0.1:1", "sites", "--url", fake.url, "--token", TOKEN,
                      "list")  # fmt: skip
    after = waypost("-o", "table", "sites", "list", "--url", fake.url, "--token", TOKEN,
                    "-o", "json")  # fmt: skip

    assert [before.exit_code, between.exit_code, after.exit_code] == [0, 0, 0]
    assert before.stdout == after.stdout == "[]\n"
    assert len(fake.requests("GET", "sites")) == 3


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://w.example", "https://w.example"),
        ("https://w.example:8443/", "https://w.example:8443"),
        ("https://w.example/api/v1/", "https://w.example"),
        ("http://[::1]:80/prefix", "http://[::1]:80/prefix"),
    ],
)
def test_an_address_is_taken_with_or_without_the_path_of_the_api(url: str, checked: str) -> None:
    assert make_connection(url=url, token=TOKEN, ca_file=None).url == checked


@pytest.mark.parametrize(
    "url",
    [None, "", "w.example", "ftp://w.example", "https://", "https://w.example:x", "https://a@b",
     "https://w.example?x=1", "https://[::1"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str | None) -> None:
    with pytest.raises(CliError) as caught:
        make_connection(url=url, token=TOKEN, ca_file=None)

    assert caught.value.cure


def test_a_token_over_plain_http_to_another_machine_brings_a_warning() -> None:
    assert make_connection(url="http://w.example", token=TOKEN, ca_file=None).sends_token_in_clear
    near = make_connection(url="http://localhost:8000", token=TOKEN, ca_file=None)
    assert not near.sends_token_in_clear
    assert TOKEN not in repr(near)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "1", "-subj", "/CN=fake", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture
def secure_fake(certificate: tuple[Path, Path]) -> Iterator[FakeApi]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    fake = FakeApi()
    fake.start(context)
    yield fake
    fake.stop()


def test_a_certificate_nobody_trusts_is_refused_and_a_ca_file_cures_it(
    waypost: Waypost, secure_fake: FakeApi, certificate: tuple[Path, Path]
) -> None:
    refused = waypost("sites", "--url", secure_fake.url)
    accepted = waypost("sites", "--url", secure_fake.url, "--ca-file", str(certificate[0]))

    assert refused.exit_code == 1
    assert f"the certificate of {secure_fake.url} is not accepted" in refused.stderr
    assert "--ca-file" in refused.stderr
    assert accepted.exit_code == 0, accepted.stderr


def test_a_certificate_for_another_name_is_told_apart(
    waypost: Waypost, secure_fake: FakeApi, certificate: tuple[Path, Path]
) -> None:
    url = secure_fake.url.replace("127.0.0.1", "localhost")

    ran = waypost("sites", "--url", url, "--ca-file", str(certificate[0]))

    assert ran.exit_code == 1
    assert "use the name in the certificate as --url" in ran.stderr


def test_tls_to_a_plain_port_is_told_apart(waypost: Waypost, fake: FakeApi) -> None:
    ran = waypost("sites", "--url", fake.url.replace("http:", "https:"))

    assert ran.exit_code == 1
    assert "does not speak TLS there" in ran.stderr
    assert "http://" in ran.stderr


def test_a_ca_file_that_cannot_be_used_is_named(waypost: Waypost, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")

    wrong = waypost("sites", "--ca-file", str(tmp_path / "ca.pem"))
    missing = waypost("sites", "--ca-file", str(tmp_path / "none.pem"))

    assert wrong.exit_code == missing.exit_code == 1
    assert "ca.pem cannot be used" in wrong.stderr
    assert "No such file" in missing.stderr
