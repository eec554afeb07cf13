"""What the converter sees of this machine: a root of its own, made of the system's programs and of
its own interpreter, read-only; a folder to work in; no network, no other process, no socket. Only
what is named is shown, so that what nobody thought of stays hidden.

It must not know what runs behind the walls. Linux's user namespaces make them (unshare(1),
pivot_root(8)); where those may not be used there are none, and the caller decides what that means.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# ROOT WORK SHOWN... -- HIDDEN... -- COMMAND...
_BUILD = r"""
set -eu
root=$1 work=$2
shift 2
show() {
  if [ -e "$root$1" ]; then return 0
  elif [ -L "$1" ]; then ln -s "$(readlink "$1")" "$root$1"
  elif [ -d "$1" ]; then mkdir -p "$root$1"; mount --rbind "$1" "$root$1"
  elif [ -e "$1" ]; then
    mkdir -p "$root$(dirname "$1")"; : >"$root$1"; mount --rbind "$1" "$root$1"
  fi
}
mount -t tmpfs -o size=1m,mode=755 none "$root"
# Before what is shown: that may lie below /tmp itself.
mkdir -p "$root/tmp" "$root/dev/shm"
mount -t tmpfs -o size=16m,mode=1777,nosuid,nodev none "$root/tmp"
mount -t tmpfs -o size=16m,mode=1777,nosuid,nodev none "$root/dev/shm"
for each in /usr /bin /sbin /lib /lib32 /lib64 /libx32 /etc/ld.so.cache /etc/alternatives \
  /dev/null /dev/zero /dev/full /dev/random /dev/urandom /sys/devices/system/cpu; do show "$each"
done
while [ "$1" != -- ]; do
  [ -e "$root$1" ] || { mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; }
  shift
done
shift
while [ "$1" != -- ]; do
  if [ -d "$root$1" ]; then mount -t tmpfs -o size=4k,mode=000 none "$root$1"
  elif [ -e "$root$1" ]; then mount --bind /dev/null "$root$1"
  fi
  shift
done
shift
mkdir -p "$root/proc"
mount -t proc none "$root/proc"
mkdir -p "$root$work"
mount --bind "$work" "$root$work"
cd "$root"
pivot_root . .
umount -l .
cd /; cd "$work"
mounts=$(cat /proc/self/mountinfo)
while read -r _ _ _ _ point options _; do
  case $point in
    /tmp | /dev/shm | "$work") continue ;;
  esac
  mount -n -o "remount,bind,$options,ro" none "$(printf %b "$point")"
done <<EOF
$mounts
EOF
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"""
_APART = ("--user", "--map-root-user", "--mount", "--net", "--pid", "--ipc", "--fork")
# Enough for what is not code: it is kept from the network where that is to be had.
_WITHOUT_NETWORK = (("--net",), ("--user", "--net"))
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Walls:
    """`hidden` are folders and files that stay hidden even inside of what is shown; `unshare` is
    the program that makes namespaces."""

    hidden: tuple[Path, ...] = ()
    unshare: str = "unshare"

    def fault(self, python: str) -> str:
        """Why there are no walls around this interpreter; empty where there are."""
        return _fault(self, python)

    def around(self, python: str, *, work: Path, root: Path) -> list[str]:
        """The command in front of the interpreter's. `work` is what it may write to; `root` an
        empty folder that only serves to mount on. Ask `fault` before."""
        shown = _shown(python)
        hidden = (str(path.resolve()) for path in self.hidden)
        build = ["sh", "-c", _BUILD, "waypost", str(root), str(work)]
        return [self.unshare, *_APART, "--kill-child", *build, *shown, "--", *hidden, "--"]

    def without_network(self) -> list[str]:
        """The command that takes away the network alone; empty where not even that works."""
        return list(_without_network(self.unshare))


@cache
def _fault(walls: Walls, python: str) -> str:
    """Builds them once, around the very interpreter, and looks whether it runs there."""
    with tempfile.TemporaryDirectory(prefix="waypost-walls-") as name:
        work, root = Path(name).resolve() / "work", Path(name).resolve() / "root"
        work.mkdir()
        root.mkdir()
        try:
            front = walls.around(python, work=work, root=root)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return f"{python} does not run ({type(error).__name__})"
        return _failure([*front, python, "-I", "-c", "open('made', 'w')"], work)


@cache
def _shown(python: str) -> tuple[str, ...]:
    """The folders of an interpreter: of its environment, and of the Python it was made from."""
    code = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.executable]))"
    done = subprocess.run(
        [python, "-I", "-c", code],
        capture_output=True,
        timeout=_SECONDS,
        check=True,
        env={"PATH": PATH},
    )
    prefix, base, executable = (Path(each) for each in json.loads(done.stdout))
    real = executable.resolve().parent.parent
    return tuple(dict.fromkeys(map(str, (prefix, base, base.resolve(), real))))


@cache
def _without_network(unshare: str) -> tuple[str, ...]:
    for apart in _WITHOUT_NETWORK:
        if not _failure([unshare, *apart, "true"], Path("/")):
            return (unshare, *apart)
    return ()


def _failure(command: Sequence[str], cwd: Path) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_SECONDS, check=False, cwd=cwd, env={"PATH": PATH}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {type(error).__name__}"
    said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
    return (said or f"exit status {done.returncode}") if done.returncode else ""
