"""Judges what the agent stands on: its configuration, folders, disk, identity, clock and GPUs."""

from __future__ import annotations

from waypost_agent.config import move_records
from waypost_agent.doctor.facts import (
    Check,
    Facts,
    FolderFacts,
    HostFacts,
    fail,
    not_applicable,
    ok,
    warn,
)

_OLDEST_PYTHON = (3, 11)
# Above the reserve by less than this, the next version will most likely not fit.
_LITTLE_ROOM_BYTES = 1 << 30


def host_checks(facts: Facts) -> tuple[Check, ...]:
    """What all the servers of a site stand on."""
    return (
        configuration(facts),
        python(facts.host),
        boot_clock(facts.host),
        state_folder(facts),
        identity(facts),
        gpu(facts),
    )


def place_checks(facts: Facts) -> tuple[Check, ...]:
    """What one server stands on."""
    return (
        secret(facts),
        repository(facts),
        one_file_system(facts),
        triton_user(facts),
        disk(facts),
    )


def configuration(facts: Facts) -> Check:
    name = "configuration"
    if facts.config is None:
        return fail(name, str(facts.config_fault), "correct the key that is named, then try again")
    return ok(name, f"{facts.config_path} can be read and is complete")


def secret(facts: Facts) -> Check:
    name = "triton secret"
    if facts.of is None:
        return not_applicable(name, "the configuration cannot be read")
    if facts.secret_fault is not None:
        return fail(
            name,
            facts.secret_fault,
            "let Triton's start write its secret there, readable by the agent's user",
        )
    if facts.of.triton.secret_file is None:
        return not_applicable(name, "no secret_file is given")
    return ok(name, f"{facts.of.triton.secret_file} can be read")


def python(host: HostFacts) -> Check:
    text = ".".join(str(part) for part in host.python)
    if host.python[:2] < _OLDEST_PYTHON:
        wanted = ".".join(str(part) for part in _OLDEST_PYTHON)
        return fail("python", text, f"install python {wanted} or newer and the agent with it")
    return ok("python", text)


def boot_clock(host: HostFacts) -> Check:
    name = "boot clock"
    if not host.has_boottime:
        return fail(
            name,
            "CLOCK_BOOTTIME cannot be read, so no lease can be timed",
            "run the agent on Linux, and allow clock_gettime where system calls are filtered",
        )
    if not host.has_boot_id:
        return warn(
            name,
            "/proc/sys/kernel/random/boot_id cannot be read; each start counts as a boot",
            "let the agent see /proc",
        )
    return ok(name, "boot id and CLOCK_BOOTTIME can be read")


def state_folder(facts: Facts) -> Check:
    name, folder = "state folder", facts.state_dir
    if folder is None:
        return not_applicable(name, "the configuration cannot be read")
    if not folder.exists:
        return fail(
            name,
            f"{folder.path} does not exist",
            f"install -d -m 700 -o USER {folder.path}, USER being who runs the agent",
        )
    if not folder.is_folder:
        return fail(name, f"{folder.path} is not a folder", "give another state_dir")
    if facts.left_behind is not None and facts.config is not None:
        return fail(name, facts.left_behind, move_records(facts.config))
    if not folder.writable:
        return fail(
            name,
            f"{folder.path} belongs to user {folder.uid} and cannot be written by user "
            f"{facts.host.uid}",
            "run the agent and this check as that user, or chown the folder",
        )
    if folder.mode & 0o022:
        return fail(
            name,
            f"{folder.path} can be changed by others (mode {folder.mode:o}): they could give "
            "orders and replace the journal",
            f"chmod 700 {folder.path}",
        )
    if folder.uid != facts.host.uid:
        return warn(
            name,
            f"{folder.path} belongs to user {folder.uid}, this is user {facts.host.uid}",
            f"run the agent's commands as user {folder.uid}",
        )
    return ok(name, f"{folder.path}, mode {folder.mode:o}")


def repository(facts: Facts) -> Check:
    name, folder = "model repository", facts.repository
    if folder is None:
        return not_applicable(name, "the configuration cannot be read")
    if not folder.exists or not folder.is_folder:
        return fail(
            name,
            f"{folder.path} is not a folder",
            "make it, or let triton.repository name Triton's --model-repository",
        )
    if not folder.writable:
        return fail(
            name,
            f"{folder.path} cannot be written by user {facts.host.uid}",
            "let it belong to the user who runs the agent",
        )
    return ok(name, f"{folder.path}, mode {folder.mode:o}")


def one_file_system(facts: Facts) -> Check:
    name, state, models = "one file system", facts.home, facts.repository
    if state is None or models is None or not (state.exists and models.exists):
        return not_applicable(name, "one of the two folders is missing")
    if state.device != models.device:
        return fail(
            name,
            f"{state.path} and {models.path} lie on two file systems; a version cannot arrive by "
            "one rename",
            "move state_dir to the file system of triton.repository (in a container: one mount)",
        )
    if state.mount != models.mount:
        return fail(
            name,
            f"{state.path} is mounted at {state.mount}, {models.path} at {models.mount}; a version "
            "cannot be moved from one mount to another",
            "put both below one mount (one volume of a container, one entry of ReadWritePaths)",
        )
    return ok(name, "a version can arrive by one rename")


def triton_user(facts: Facts) -> Check:
    name, folder, host = "repository closed to Triton", facts.repository, facts.host
    if facts.of is None or folder is None or not folder.exists:
        return not_applicable(name, "there is no repository to look at")
    user = facts.of.triton.user
    if user is None:
        return not_applicable(name, "triton.user does not say as whom Triton runs")
    if not host.triton_user_known or host.triton_user is None:
        return warn(
            name,
            f"the user {user!r} is not known here",
            "let triton.user name Triton's user, by a number where it runs in a container",
        )
    uid, groups = host.triton_user
    if uid == 0:
        return warn(
            name,
            "Triton runs as root and may change what it serves",
            "run Triton as a user of its own",
        )
    if _may_write(folder, uid, groups):
        return fail(
            name,
            f"{folder.path} (user {folder.uid}, mode {folder.mode:o}) can be written by Triton's "
            f"user {user}: a model could change the models, and python stubs make reloads",
            f"chown it to the agent's user and chmod 755 {folder.path}",
        )
    return ok(name, f"Triton's user {user} can only read {folder.path}")


def _may_write(folder: FolderFacts, uid: int, groups: frozenset[int]) -> bool:
    if folder.uid == uid:
        return bool(folder.mode & 0o200)
    if folder.gid in groups:
        return bool(folder.mode & 0o020)
    return bool(folder.mode & 0o002)


def disk(facts: Facts) -> Check:
    name, size, free = "disk", facts.host.disk_bytes, facts.host.free_bytes
    if facts.config is None or size is None or free is None:
        return not_applicable(name, "the free space cannot be learned")
    reserve = facts.config.limits.reserve_of(size)
    seen = f"{_gigabytes(free)} free, {_gigabytes(reserve)} of them kept in reserve"
    cure = "make room on this file system, or lower limits.reserve_bytes"
    if free <= reserve:
        return fail(name, f"{seen}; no version can be fetched", cure)
    if free - reserve < _LITTLE_ROOM_BYTES:
        return warn(name, seen, cure)
    return ok(name, seen)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def identity(facts: Facts) -> Check:
    name, known = "identity", facts.identity
    if facts.config is None:
        return not_applicable(name, "the configuration cannot be read")
    join = "waypost-agent join URL --token TOKEN; the token is on the site's page"
    if known.fault is not None:
        return fail(name, known.fault, join)
    if known.key_mode is None or known.site is None:
        return fail(name, "this agent has not joined a site", join)
    if known.key_mode & 0o077:
        path = facts.config.state_dir / "agent.key"
        return fail(name, f"others may read the key (mode {known.key_mode:o})", f"chmod 600 {path}")
    return ok(name, f"joined {known.centre_url} as site {known.site}")


def gpu(facts: Facts) -> Check:
    name, count = "gpu", facts.host.gpus
    required = facts.config is not None and facts.config.gpu_required
    if count:
        return ok(name, f"{count} visible")
    if not required:
        return not_applicable(
            name, "none visible" if count == 0 else "nobody could look; gpu_required is false"
        )
    if count == 0:
        return fail(name, "none visible", "check nvidia-smi; in a container, pass the GPUs in")
    return fail(
        name,
        "the driver or nvidia-ml-py is missing",
        "check nvidia-smi, and pip install nvidia-ml-py beside the agent",
    )
