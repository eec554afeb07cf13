"""Renews the third-party assets of the console from npm, by pinned version and checksum.

Run it only to change a version: what it writes is committed, so that nothing is fetched when the
control plane is installed. It needs `npm`; nothing else in the project does.
"""

import base64
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VENDOR = Path(__file__).resolve().parents[1] / "controlplane/web/static/vendor"


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file of an npm package. `licence_in_package` is None where the package carries none:
    the text beside the asset then comes from the project's repository and is kept as it is."""

    package: str
    version: str
    integrity: str
    member: str
    name: str
    licence: str
    licence_in_package: str | None


ASSETS = (
    Asset(
        package="htmx.org",
        version="2.0.11",
        integrity="sha512-Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM3p4gJgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA==",
        member="dist/htmx.min.js",
        name="htmx.min.js",
        licence="0BSD",
        licence_in_package="LICENSE",
    ),
    Asset(
        package="idiomorph",
        version="0.8.0",
        integrity="sha512-R47JBL+6jHDQvcnbppIUtXXcxi5h6+wuCEEZXnRhUltsgzPFKzThL5PuHppP9ypJuy+7WawcY1TsSBD/iQbMhw==",
        member="dist/idiomorph-ext.min.js",
        name="idiomorph-ext.min.js",
        licence="0BSD",
        licence_in_package="LICENSE",
    ),
    Asset(
        package="@tabler/core",
        version="1.6.1",
        integrity="sha512-lgmR9gcxRp5JlLxcmRi9Rz85JrEvH6Bz71KnlcPVSa97wtwQNjgSs3g3fxwbAlulHyRMghhIV04QUuW3pqDsIg==",
        member="dist/css/tabler.min.css",
        name="tabler.min.css",
        licence="MIT",
        licence_in_package=None,
    ),
)


def main() -> int:
    VENDOR.mkdir(parents=True, exist_ok=True)
    for asset in ASSETS:
        renew(asset)
    write_versions()
    return 0


def renew(asset: Asset) -> None:
    """Writes the asset and its licence. Raises `SystemExit` for bytes that are not the pinned."""
    package = download(asset)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        (VENDOR / asset.name).write_bytes(without_source_map(read(archive, asset.member)))
        licence = VENDOR / f"{asset.name}.LICENSE"
        if asset.licence_in_package:
            licence.write_bytes(read(archive, asset.licence_in_package))
        elif not licence.exists():
            raise SystemExit(f"{licence.name} is missing; take it from the project's repository")
    print(f"{asset.name}: {asset.package} {asset.version}")


def download(asset: Asset) -> bytes:
    spec = f"{asset.package}@{asset.version}"
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--json", "--pack-destination", folder, spec]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        filename = json.loads(answer.stdout)[0]["filename"].replace("@", "").replace("/", "-")
        package = (Path(folder) / filename).read_bytes()
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if f"sha512-{found}" != asset.integrity:
        raise SystemExit(f"{spec} has integrity sha512-{found}, pinned is {asset.integrity}")
    return package


def read(archive: tarfile.TarFile, member: str) -> bytes:
    stream = archive.extractfile(f"package/{member}")
    if stream is None:
        raise SystemExit(f"the package holds no file {member}")
    return stream.read()


def without_source_map(content: bytes) -> bytes:
    """The maps are not vendored, and the static storage refuses a file that names a missing one."""
    lines = [line for line in content.splitlines() if b"sourceMappingURL=" not in line]
    return b"\n".join(lines) + b"\n"


def write_versions() -> None:
    rows = [
        f"| `{a.name}` | {a.package} | {a.version} | {a.licence} | "
        f"`{hashlib.sha256((VENDOR / a.name).read_bytes()).hexdigest()}` |"
        for a in ASSETS
    ]
    text = [
        "# Third-party assets of the console",
        "",
        "Renewed by `deploy/vendor_assets.py`; only the source map comment is taken out.",
        "The full licence of each file stands beside it.",
        "",
        "| file | npm package | version | licence | SHA-256 |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]
    (VENDOR / "VERSIONS.md").write_text("\n".join(text))


if __name__ == "__main__":
    sys.exit(main())
