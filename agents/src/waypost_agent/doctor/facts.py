"""What a doctor looks at, and what it says of it. Values only; None means: could not be learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from waypost_agent.config import Config, ServerConfig

OK, WARN, FAIL, NOT_APPLICABLE = "ok", "warn", "fail", "not applicable"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding. `cure` is one line that says what to do, empty where nothing is to be done;
    `server` the one of several Tritons that it is about."""

    name: str
    verdict: str
    seen: str
    cure: str = ""
    server: str = ""


def ok(name: str, seen: str) -> Check:
    return Check(name=name, verdict=OK, seen=seen)


def warn(name: str, seen: str, cure: str) -> Check:
    return Check(name=name, verdict=WARN, seen=seen, cure=cure)


def fail(name: str, seen: str, cure: str) -> Check:
    return Check(name=name, verdict=FAIL, seen=seen, cure=cure)


def not_applicable(name: str, seen: str) -> Check:
    return Check(name=name, verdict=NOT_APPLICABLE, seen=seen)


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """A folder: `mode` are its permission bits, `device` its file system, `mount` where that is
    mounted (None: cannot be seen), `writable` by us."""

    path: Path
    exists: bool
    is_folder: bool = False
    uid: int = 0
    gid: int = 0
    mode: int = 0
    device: int = 0
    mount: str | None = None
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """This machine and this process. `gpus`: how many, None when nobody could look."""

    python: tuple[int, int, int]
    uid: int
    has_boot_id: bool
    has_boottime: bool
    gpus: int | None
    disk_bytes: int | None = None  # of the disk that the models lie on, and how many are free
    free_bytes: int | None = None
    triton_user: tuple[int, frozenset[int]] | None = None  # its uid and its groups
    triton_user_known: bool = False


@dataclass(frozen=True, kw_only=True)
class IdentityFacts:
    """`key_mode` None: no key. `fault`: what cannot be read. `site` None: never joined."""

    key_mode: int | None = None
    site: str | None = None
    centre_url: str | None = None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class CentreFacts:
    """`/healthz/live` of the centre: who it is found at, what it answered, its clock less ours."""

    url: str
    addresses: tuple[str, ...] = ()
    name_fault: str | None = None
    status: int | None = None
    fault: str | None = None
    tls_fault: bool = False
    is_centre: bool = False
    ahead_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """Triton, from outside. `explicit`: it lets itself be told what to load; `control_reason`
    its own words when not. `command`: its options, where this machine shows them. `listeners`:
    the addresses each asked port is bound to, None where this machine does not show them.
    `open_over_http`: model control over HTTP works without the secret."""

    live: bool
    reason: str = ""
    version: str | None = None
    extensions: frozenset[str] = frozenset()
    explicit: bool | None = None
    control_reason: str = ""
    command: tuple[str, ...] | None = None
    listeners: Mapping[int, frozenset[str]] | None = None
    open_over_http: bool | None = None
    backends: frozenset[str] | None = None  # those in its backend directory


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model on record. `golden` None: not replayed, `golden_reason` says why or what failed."""

    model: str
    committed: str | None
    serving: str | None
    committed_on_disk: bool = True
    config_names: str | None = None  # the version that config.pbtxt in the repository names
    backend: str | None = None
    golden: bool | None = None
    golden_reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TrustFacts:
    """The keys of [trust]: `fault` why they cannot be used, `changeable` those files of them that
    somebody but their owner can write."""

    fingerprints: tuple[str, ...] = ()
    fault: str | None = None
    changeable: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MirrorFacts:
    """A neighbour that is asked for files: what it answers to a question for none, or why not."""

    url: str
    status: int | None = None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class SharingFacts:
    """`opens_at`: when the next download window opens, None when one is open or none is given.
    `secret_fault`: why the secret of [mirror] cannot be used."""

    opens_at: datetime | None = None
    mirrors: tuple[MirrorFacts, ...] = ()
    secret_fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class JournalFacts:
    """`unreadable`: files that cannot be read now; `set_aside`: those that could not before."""

    unreadable: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything there is to know about one server of the site, `of`, and what it stands on.
    Without a configuration that can be read there is nothing but the host."""

    host: HostFacts
    config_path: Path
    config: Config | None = None
    of: ServerConfig | None = None
    config_fault: str | None = None
    left_behind: str | None = None  # records that no server of the configuration would find
    secret_fault: str | None = None  # why Triton's secret cannot be read
    state_dir: FolderFacts | None = None
    home: FolderFacts | None = None  # of the records of this server, in state_dir or it itself
    repository: FolderFacts | None = None
    identity: IdentityFacts = IdentityFacts()
    centre: CentreFacts | None = None
    trust: TrustFacts | None = None
    sharing: SharingFacts | None = None
    server: ServerFacts | None = None
    journal: JournalFacts = JournalFacts()
    models: tuple[ModelFacts, ...] = field(default=())
