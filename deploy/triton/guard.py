"""Becomes tritonserver, and leaves a watcher behind that ends it when nobody wants it any more.

    python3 guard.py SOCKET_FD SHARED_MEMORY_PREFIX PROGRAM [ARGUMENT ...]

The watcher waits until the process that holds the other end of the socket is gone, however it
ended, or until the server is; then it kills the server's process group (a stub may outlive its
server, which is why telling only the server is not enough) and removes the shared memory that a
killed server leaves. The other end of the socket closes when all of this is done.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

# How late the watcher may notice that the server ended by itself.
_LOOK_SECONDS = 0.2


def main(descriptor: int, prefix: str, command: list[str]) -> None:
    server = os.getpid()
    if os.fork() == 0:
        _watch(server, socket.socket(fileno=descriptor), prefix)
        os._exit(0)
    # Only the watcher may hold this end, or its closing would tell nothing.
    os.set_inheritable(descriptor, False)
    os.execv(command[0], command)


def _watch(server: int, wanted: socket.socket, prefix: str) -> None:
    # Out of the group that it is going to kill.
    os.setpgid(0, 0)
    wanted.settimeout(_LOOK_SECONDS)
    while os.getppid() == server and not _at_end(wanted):
        pass  # each look waits for the timeout
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    for left in Path("/dev/shm").glob(f"{prefix}*"):
        left.unlink(missing_ok=True)


def _at_end(wanted: socket.socket) -> bool:
    try:
        return wanted.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
