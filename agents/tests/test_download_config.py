"""The tables [download] and [mirror]: what they may hold, and what is said of what they may not."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Any

import pytest

from waypost_agent.config import parse_config
from waypost_agent.downloads import make_mirrors, read_secret
from waypost_agent.errors import ConfigError

BASE: dict[str, Any] = {
    "state_dir": "/srv/waypost/state",
    "triton": {"repository": "/srv/waypost/models"},
}
SECRET = {"secret_file": "/etc/waypost/mirror.secret"}


def test_what_is_left_out_is_two_connections_and_no_mirror() -> None:
    config = parse_config(BASE)
    assert config.download.connections == 2
    assert (config.download.mirrors, config.download.windows) == ((), ())
    assert (config.mirror.listen, config.mirror.secret_file) == (None, None)
    assert make_mirrors(config) == ()


def test_all_of_it() -> None:
    config = parse_config(
        BASE
        | {
            "download": {
                "connections": 8,
                "mirrors": ["https://10.0.0.5:8443", "http://127.0.0.1:9"],
                "windows": [{"days": ["sat"], "from": "22:00", "to": "06:00"}],
                "time_zone": "Europe/Berlin",
            },
            "mirror": SECRET
            | {"listen": "[::1]:8443", "tls_certificate": "/a.pem", "tls_key": "/a.key"},
        }
    )
    assert config.download.mirrors == ("https://10.0.0.5:8443", "http://127.0.0.1:9")
    assert config.download.windows[0].opens == time(22)
    assert str(config.download.time_zone) == "Europe/Berlin"
    assert config.mirror.listen == ("::1", 8443)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"connections": 0}, "download.connections: must be a whole number from 1 to 8, it is 0"),
        ({"connections": 9}, "download.connections"),
        ({"connections": True}, "download.connections"),
        ({"connection": 2}, "download.connection: unknown key"),
        ({"mirrors": "https://a"}, "download.mirrors: must be a list"),
        ({"mirrors": ["10.0.0.5:8443"]}, "download.mirrors: '10.0.0.5:8443' is not a URL"),
        ({"mirrors": ["http://10.0.0.5"]}, "download.mirrors: .* in the clear"),
        ({"mirrors": ["https://10.0.0.5"]}, "mirror.secret_file: is missing"),
        ({"windows": [{"from": "22:00"}]}, r"download.windows: \[0\].to must be an hour"),
        ({"time_zone": "Mars/Olympus"}, "download.time_zone: 'Mars/Olympus' is not a time zone"),
        ({"time_zone": "../../etc/passwd"}, "download.time_zone"),
    ],
)
def test_a_wrong_download_table_is_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(BASE | {"download": table})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"listen": "10.0.0.4:8443"}, "mirror.secret_file: is missing"),
        (SECRET | {"listen": "10.0.0.4:8443"}, "mirror.listen: would take the secret in the clear"),
        (SECRET | {"listen": "8443"}, "mirror.listen: must be an address and a port"),
        (SECRET | {"listen": "10.0.0.4:0"}, "mirror.listen"),
        (SECRET | {"tls_key": "/a"}, "mirror.tls_certificate: and mirror.tls_key belong together"),
        ({"secret_file": "mirror.secret"}, "mirror.secret_file: must be an absolute path"),
        ({"secrets": "x"}, "mirror.secrets: unknown key"),
    ],
)
def test_a_wrong_mirror_table_is_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(BASE | {"mirror": table})


def test_plain_http_between_mirrors_only_where_the_site_says_so() -> None:
    config = parse_config(
        BASE
        | {"allow_plain_http": True, "mirror": SECRET | {"listen": "10.0.0.4:8443"}}
        | {"download": {"mirrors": ["http://10.0.0.5:8443"]}}
    )
    assert config.mirror.tls is None


@pytest.mark.parametrize("text", ["", "short", "x" * 20 + "\n" + "y" * 20, "ü" * 20])
def test_a_secret_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(ConfigError, match="at least 16 letters and digits in one line"):
        read_secret(path)


def test_a_secret_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_secret(tmp_path / "missing")
