"""What a model's code can reach from the converter; what is refused where there are no walls."""

import shutil
import socket
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pytest

from controlplane.catalog.registry import Refused
from controlplane.catalog.registry.conversion import Converter, Limits
from controlplane.catalog.registry.s3 import open_s3_folder
from controlplane.catalog.registry.walls import Walls

NOT_THERE = Walls(unshare="/nonexistent/unshare")


@pytest.fixture
def front(tmp_path: Path) -> list[str]:
    walls = Walls(hidden=(tmp_path / "data",))
    if fault := walls.fault(sys.executable):
        pytest.skip(f"no user namespaces here: {fault}")
    for name in ("work", "root", "data"):
        (tmp_path / name).mkdir()
    return walls.around(sys.executable, work=tmp_path / "work", root=tmp_path / "root")


def test_an_interpreter_below_tmp_is_seen_too(front: list[str], tmp_path: Path) -> None:
    """A checkout may lie there, and the walls have a /tmp of their own."""
    folder = Path(tempfile.mkdtemp(prefix="waypost-env-", dir="/tmp"))
    try:
        venv.create(folder, with_pip=False, symlinks=True)
        assert Walls().fault(str(folder / "bin" / "python")) == ""
    finally:
        shutil.rmtree(folder)


def said(front: list[str], code: str) -> str:
    command = [*front, sys.executable, "-I", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_code_of_a_model_writes_nowhere_but_where_it_works(
    front: list[str], tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    places = [
        tmp_path / "code",
        Path(sys.prefix),
        Path("/usr"),
        Path("/"),
        Path("/proc/sys/kernel"),
    ]
    code = f"""
import os
for place in {list(map(str, places))!r}:
    try:
        open(place + "/core_pattern", "a").close()
        print(place)
    except OSError:
        pass
open("made", "w").write("x")
"""
    assert said(front, code) == ""
    assert list((tmp_path / "code").iterdir()) == []
    assert (tmp_path / "work" / "made").read_text() == "x"


def test_the_code_of_a_model_reaches_no_socket_and_sees_no_data(
    front: list[str], tmp_path: Path
) -> None:
    (tmp_path / "data" / "secret").write_text("x")
    with socket.socket(socket.AF_UNIX) as heard:
        heard.bind(str(tmp_path / "s"))
        heard.listen(1)
        code = f"""
import os, socket
print(socket.socket(socket.AF_UNIX).connect_ex({str(tmp_path / "s")!r}) == 0)
print(os.path.exists({str(tmp_path / "data" / "secret")!r}), os.path.exists("/run"))
print(os.listdir("/home") if os.path.exists("/home") else [])
"""
        assert said(front, code).split() == ["False", "False", "False", "[]"]


@pytest.mark.parametrize("form", ["pickle", "cloudpickle", "skops"])
def test_without_walls_no_code_runs(form: str, tmp_path: Path) -> None:
    model = tmp_path / "model.pkl"
    model.write_bytes(b"x")
    converter = Converter(python=sys.executable, walls=NOT_THERE)
    with pytest.raises(Refused, match="WAYPOST_CONVERTER_UNWALLED"):
        converter.run({"kind": "sklearn", "format": form}, inputs={"model": model}, into=tmp_path)


@pytest.mark.parametrize(("kind", "unwalled"), [("xgboost", False), ("sklearn", True)])
def test_data_and_what_the_settings_allow_go_on_without_walls(
    kind: str, unwalled: bool, tmp_path: Path
) -> None:
    """As far as this interpreter takes them: it has none of the converter's packages."""
    model = tmp_path / "model.json"
    model.write_bytes(b"x")
    converter = Converter(python=sys.executable, walls=NOT_THERE, unwalled=unwalled)
    with pytest.raises(Refused, match="could not be converted"):
        converter.run({"kind": kind}, inputs={"model": model}, into=tmp_path)


def test_all_its_files_together_have_a_bound(tmp_path: Path) -> None:
    """Each is small enough; the sum is not."""
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\nn=0; while :; do n=$((n+1)); head -c 65536 /dev/zero >"$HOME/$n"; done\n'
    )
    program.chmod(0o755)
    limits = Limits(disk_bytes=1 << 20, reserve_bytes=0, wall_seconds=30)
    converter = Converter(python=str(program), walls=NOT_THERE, limits=limits)
    with pytest.raises(Refused, match="wrote more than"):
        converter.run({"kind": "xgboost"}, inputs={}, into=tmp_path)


@pytest.mark.parametrize(
    ("location", "own", "good"),
    [
        ("s3://models/a", ("models", ""), False),
        ("s3://models/store/a", ("models", "store"), False),
        ("s3://models/store", ("models", "store/deep"), False),
        ("s3://models/stored/a", ("models", "store"), True),
        ("s3://models/a", ("others", ""), True),
    ],
)
def test_the_own_store_is_no_place_of_a_registry(
    location: str, own: tuple[str, str], good: bool
) -> None:
    if good:
        assert open_s3_folder(location, client=None, buckets={"models"}, own=own).bucket == "models"
        return
    with pytest.raises(Refused, match="artifact store"):
        open_s3_folder(location, client=None, buckets={"models"}, own=own)
