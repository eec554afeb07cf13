"""Turns the unpacked nvidia-pytriton wheel in `.triton` into a server tree that can be started.

Knows the wheel's layout and what the machine must bring; nothing of models, ports or sites.
Stdlib only: it runs before any environment exists.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from deploy.errors import CannotGoOn

_ARCHITECTURES = ("x86_64", "aarch64")
_GLIBC = (2, 35)  # the wheel is tagged manylinux_2_35
_DESCRIPTION = "waypost-triton.json"


class ServerTree(NamedTuple):
    """Where the parts of an installed Triton are. `library_folders` goes to LD_LIBRARY_PATH."""

    binary: Path
    backends: Path
    programs: Path
    library_folders: tuple[Path, ...]


def check_platform() -> None:
    """Raise `CannotGoOn` unless this machine can run the wheel's binaries."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ARCHITECTURES:
        raise CannotGoOn(
            f"the Triton wheel exists for Linux on {' and '.join(_ARCHITECTURES)}, "
            f"this is {sys.platform} on {machine}",
            "run this on such a machine",
        )
    found = _glibc_version()
    if found < _GLIBC:
        raise CannotGoOn(
            f"the Triton wheel needs glibc {_GLIBC[0]}.{_GLIBC[1]} or newer, this machine has "
            + (f"{found[0]}.{found[1]}" if any(found) else "another C library"),
            "use Ubuntu 22.04, Debian 12, or a newer Linux",
        )
    find_libpython()


def _glibc_version() -> tuple[int, int]:
    try:
        name, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()
        major, minor = version.split(".")[:2]
    except (ValueError, OSError):
        return (0, 0)  # musl and others do not know the name
    return (int(major), int(minor)) if name == "glibc" else (0, 0)


def find_libpython() -> Path | None:
    """The folder of this interpreter's shared library, None where the loader finds it by itself.

    The python backend's stub is linked against it; many an interpreter is built without it.
    """
    name = f"libpython{sys.version_info[0]}.{sys.version_info[1]}.so.1.0"
    folders = {
        Path(str(sysconfig.get_config_var("LIBDIR") or "/nonexistent")),
        Path(sys.base_prefix) / "lib",
    }
    for folder in sorted(folders):
        if (folder / name).is_file():
            return folder
    # In a process of its own: a second libpython has no business inside this one.
    probe = [sys.executable, "-I", "-c", f"import ctypes; ctypes.CDLL({name!r})"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return None
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    raise CannotGoOn(
        f"Triton's python backend needs the shared library {name}, and this python3 "
        f"({sys.executable}) comes without it",
        f"apt-get install libpython{version}   (a pyenv python: "
        f"env PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {version})",
    )


def prepare(environment: Path) -> ServerTree:
    """Complete the wheel installed in `environment` and describe it there for `read_tree`."""
    packages = _packages(environment)
    server = packages / "pytriton" / "tritonserver"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise CannotGoOn(
            f"this Triton wheel has no python backend for Python {version}",
            "run this with Python 3.11 or 3.12",
        )
    installed = shutil.copy2(stub, server / "backends" / "python" / stub.name)
    binary = server / "bin" / "tritonserver"
    for program in (Path(installed), binary):
        program.chmod(0o755)
    # Wheels carry files anyone may write; nobody but the owner may change what a site runs.
    for path in server.rglob("*"):
        path.chmod(path.stat().st_mode & 0o755)
    libpython = find_libpython()
    described = {
        "server": str(server.relative_to(environment)),
        "libraries": str((packages / "nvidia_pytriton.libs").relative_to(environment)),
        "libpython_folder": None if libpython is None else str(libpython),
    }
    (environment / _DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n")
    return read_tree(environment)


def read_tree(environment: Path) -> ServerTree:
    """The parts of the Triton that `prepare` made in `environment`.

    Raises `CannotGoOn` when none is there.
    """
    try:
        described = json.loads((environment / _DESCRIPTION).read_text())
    except FileNotFoundError:
        raise CannotGoOn(
            f"there is no Triton in {environment}", "python3 deploy/bootstrap.py triton"
        ) from None
    server = environment / described["server"]
    folders = [environment / described["libraries"]]
    if described["libpython_folder"] is not None:
        folders.append(Path(described["libpython_folder"]))
    return ServerTree(
        binary=server / "bin" / "tritonserver",
        backends=server / "backends",
        programs=environment / "bin",
        library_folders=tuple(folders),
    )


def _packages(environment: Path) -> Path:
    folder = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return environment / "lib" / folder / "site-packages"
