"""Django's secret key: from the environment, else a file that the first use makes."""

import os
import secrets
from pathlib import Path


def load_secret_key(data_dir: Path) -> str:
    """The key of this installation; several web hosts share one through WAYPOST_SECRET_KEY."""
    if given := os.environ.get("WAYPOST_SECRET_KEY"):
        return given
    if path := os.environ.get("WAYPOST_SECRET_KEY_FILE"):
        return Path(path).read_text().strip()
    path_here = data_dir / "secret-key"
    data_dir.mkdir(parents=True, exist_ok=True)
    if not path_here.exists():
        _create(path_here)
    return path_here.read_text().strip()


def _create(path: Path) -> None:
    # Written beside, then linked: of two first starts at once one wins, and the file is whole.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
