"""`waypost golden record` and `check` against a real Triton with two versions of a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from waypost_cli import main

from controlplane.catalog import config_text
from controlplane.domain import golden_document
from deploy.demo.models import MODEL_NAME
from deploy.triton.testing import MakeTriton, install_version, write_config
from deploy.triton.testing import make_triton as make_triton

pytestmark = pytest.mark.triton


def test_what_one_version_answered_proves_it_and_not_the_other(
    make_triton: MakeTriton,
    demo_versions: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    triton = make_triton(tmp_path)
    for number in ("1", "2"):
        install_version(triton.repository, demo_versions[number], model=MODEL_NAME, version=number)
    write_config(triton.repository, demo_versions["1"], model=MODEL_NAME, versions=[1, 2])
    out = tmp_path / "golden.json"
    with triton:
        common = ["--url", f"http://127.0.0.1:{triton.ports.http}", "--model", MODEL_NAME]
        made = ["--random", "2", "--seed", "3", "--fill", "sr=16000", "--out", str(out)]
        recorded = main.run(["golden", "record", *common, "--version", "1", *made])
        assert recorded == 0, capsys.readouterr().err
        assert main.run(["golden", "check", str(out), *common, "--version", "1"]) == 0
        capsys.readouterr()
        other = main.run(["golden", "check", str(out), *common, "--version", "2", "-o", "json"])
    assert other == 1
    results = json.loads(capsys.readouterr().out)["results"]
    assert {each["output"] for each in results} == {"output", "stateN"}
    assert all(each["outcome"] == "fails" and each["off_by"] for each in results)
    config = (demo_versions["1"] / "config.pbtxt").read_bytes()
    view = config_text.parse_config(config).view
    assert golden_document.golden_findings(out.read_bytes(), view) == ()
