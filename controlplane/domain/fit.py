"""Whether a build can live at a site: what it asks for against what stands there, each question
answered with its numbers.

What nobody knows refuses nothing, but for code that the version's author wrote: that needs the
site's own yes and a Triton that is known to be safe. It must not know rows, or which build is
taken (`variants.py`)."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from controlplane.domain.fit_facts import (
    EXECUTABLE,
    OPAQUE,
    Answer,
    Check,
    Demand,
    Machine,
    Profile,
    SiteFacts,
    Triton,
    Verdict,
    numbers,
    size_text,
)
from controlplane.domain.fit_memory import judge_memory
from controlplane.domain.triton_floor import FLOOR_RELEASE, FLOOR_VERSION

# What an agent keeps free, unless its site says otherwise (docs/agent-protocol.md, section 4).
RESERVE_BYTES = 2 << 30
RESERVE_SHARE = 10


def judge(demand: Demand, facts: SiteFacts) -> Verdict:
    """Every question that the build gives rise to; a refusal beats what is not known."""
    return with_disk(judge_profile(demand, facts.profile), demand, facts)


def judge_profile(demand: Demand, profile: Profile) -> Verdict:
    """What does not depend on the disk; the same for all sites of a profile."""
    checks = [*_rules(demand, profile), *_server(demand, profile), *_hardware(demand, profile)]
    memory, only_by_replace = judge_memory(demand, profile)
    return _together([*checks, *memory], only_by_replace)


def with_disk(judged: Verdict, demand: Demand, facts: SiteFacts) -> Verdict:
    """The same with the question of the disk before the others."""
    return _together([_disk(demand, facts), *judged.checks], judged.only_by_replace)


def best_of(judged: Iterable[Verdict]) -> Verdict:
    """Of several servers of a site the one that speaks least against it, the first of equals."""
    order = (Answer.OK, Answer.UNKNOWN, Answer.NO)
    return min(judged, key=lambda verdict: order.index(verdict.verdict))


def _together(checks: list[Check], only_by_replace: bool) -> Verdict:
    answers = {check.verdict for check in checks}
    verdict = next((a for a in (Answer.NO, Answer.UNKNOWN) if a in answers), Answer.OK)
    return Verdict(verdict=verdict, checks=tuple(checks), only_by_replace=only_by_replace)


def _check(name: str, verdict: Answer, need: str, have: str, sentence: str) -> Check:
    return Check(name=name, verdict=verdict, have=have, need=need, sentence=sentence)


def _disk(demand: Demand, facts: SiteFacts) -> Check:
    need, free, total = demand.size_bytes, facts.disk_free_bytes, facts.disk_total_bytes
    asks = f"needs {size_text(need)} of disk"
    if free is None:
        return _check("disk", Answer.UNKNOWN, size_text(need), "", f"{asks}, nobody said how much")
    reserve = RESERVE_BYTES if total is None else max(RESERVE_BYTES, total // RESERVE_SHARE)
    said = f"{asks}, {size_text(free)} are free"
    if free < need:
        return _check("disk", Answer.NO, size_text(need), size_text(free), said)
    if free < need + reserve:
        kept = f"{said}, of which agents keep {size_text(reserve)} unless their site says otherwise"
        return _check("disk", Answer.UNKNOWN, size_text(need + reserve), size_text(free), kept)
    return _check("disk", Answer.OK, size_text(need), size_text(free), said)


def _rules(demand: Demand, profile: Profile) -> list[Check]:
    """Both fail closed: code by the version's author runs only where the site itself says yes, and
    under a Triton without known critical faults."""
    if demand.content_class == OPAQUE:
        return [_vouched_for(demand, profile)]
    if demand.content_class != EXECUTABLE:
        return []
    return [_opt_in(profile.executable_allowed), _floor(demand, profile)]


def _opt_in(allowed: bool | None) -> Check:
    need, cure = "allowed at the site", "set allow_executable = true in its agent.toml"
    if allowed:
        said = "it runs code of its author, which the site's agent allows"
        return _check("executable", Answer.OK, need, "allowed", said)
    have = "not said" if allowed is None else "not allowed"
    why = "has not said that it allows" if allowed is None else "does not allow"
    said = f"it runs code of its author, which the site's agent {why}; {cure}"
    return _check("executable", Answer.NO, need, have, said)


def _vouched_for(demand: Demand, profile: Profile) -> Check:
    """Machine code that only its builder can vouch for: an agent loads it where a release key that
    it trusts signed it, or where it may load code anyway. One that says nothing of it may be too
    old to ask."""
    need = "signed by a key the site trusts, or allowed there"
    what = "it holds machine code such as a TensorRT plan"
    if demand.signed_by & profile.trusted_keys:
        said = f"{what}, signed by a release key that the site trusts"
        return _check("executable", Answer.OK, need, "signed", said)
    if profile.executable_allowed:
        said = f"{what}, which the site's agent allows"
        return _check("executable", Answer.OK, need, "allowed", said)
    if profile.executable_allowed is None:
        said = f"{what}; the site's agent has not said whether it loads that"
        return _check("executable", Answer.UNKNOWN, need, "not said", said)
    cure = "sign the version by a key it trusts, or set allow_executable = true in its agent.toml"
    said = f"{what} that no release key the site trusts has signed; {cure}"
    return _check("executable", Answer.NO, need, "neither", said)


def _floor(demand: Demand, profile: Profile) -> Check:
    version = _triton_of(demand, profile.machine).version
    least = f"{FLOOR_VERSION[0]}.{FLOOR_VERSION[1]} ({FLOOR_RELEASE})"
    known = numbers(version)
    if known is not None and known[:2] >= FLOOR_VERSION:
        said = f"Triton {version} is at the security floor of {least} or above"
        return _check("triton-floor", Answer.OK, least, version, said)
    what = f"Triton {version} is below" if known else "nobody knows whether its Triton is above"
    said = f"{what} the security floor of {least}"
    if profile.floor_waiver:
        waived = f"{said}, which is waived: {profile.floor_waiver}"
        return _check("triton-floor", Answer.OK, least, version, waived)
    cure = f"run Triton {FLOOR_RELEASE} or newer there, or waive the floor for the site"
    closed = f"it runs code of its author, and {said}; {cure}"
    return _check("triton-floor", Answer.NO, least, version, closed)


def _triton_of(demand: Demand, machine: Machine) -> Triton:
    """The one that takes the model; a server of which nothing is told has one that says nothing."""
    for triton in machine.tritons:
        if triton.models is not None and any(fnmatchcase(demand.model, p) for p in triton.models):
            return triton
    rest = [triton for triton in machine.tritons if triton.models is None]
    return rest[0] if rest else Triton()


def _server(demand: Demand, profile: Profile) -> list[Check]:
    triton, requires = _triton_of(demand, profile.machine), demand.requires
    found = []
    if least := _text(requires, "triton"):
        found.append(_at_least("triton", "Triton", least, [triton.version], "the site has"))
    if wanted := requires.get("backends"):
        assert isinstance(wanted, list)
        found.append(_backends([str(name) for name in wanted], triton))
    if exact := _text(requires, "tensorrt"):
        found.append(_tensorrt(exact, triton.tensorrt))
    return found


def _backends(wanted: list[str], triton: Triton) -> Check:
    need = ", ".join(wanted)
    if triton.backends is None:
        said = f"needs the backend {need}; nobody said which ones the site's Triton has"
        return _check("backends", Answer.UNKNOWN, need, "", said)
    have = ", ".join(sorted(triton.backends)) or "none"
    # The backend of ensembles is part of every server.
    missing = [name for name in wanted if name not in triton.backends and name != "ensemble"]
    if not missing:
        said = f"needs the backend {need}, which the site's Triton has"
        return _check("backends", Answer.OK, need, have, said)
    said = f"needs the backend {', '.join(missing)}; the site's Triton has {have}"
    return _check("backends", Answer.NO, need, have, said)


def _tensorrt(exact: str, has: str) -> Check:
    asks = f"needs TensorRT {exact}"
    if not has:
        said = f"{asks}; nobody said which one the site has"
        return _check("tensorrt", Answer.UNKNOWN, exact, "", said)
    wanted, known = numbers(exact), numbers(has)
    same = wanted is not None and known is not None and known[: len(wanted)] == wanted
    return _check(
        "tensorrt", Answer.OK if same else Answer.NO, exact, has, f"{asks}, the site has {has}"
    )


def _hardware(demand: Demand, profile: Profile) -> list[Check]:
    requires, gpus = demand.requires, profile.machine.gpus
    least = _text(requires, "compute_capability")
    exact = _text(requires, "compute_capability_exact")
    driver = _text(requires, "driver")
    if not (least or exact or driver or requires.get("accelerator_memory_bytes")):
        return []
    if gpus is None:
        said = "needs an accelerator; nobody could look whether the site has one"
        return [_check("accelerator", Answer.UNKNOWN, "one", "", said)]
    if not gpus:
        what = f" of compute capability {exact or least}" if exact or least else ""
        said = f"needs an accelerator{what}, the site has none"
        return [_check("accelerator", Answer.NO, "one", "none", said)]
    capabilities = [gpu.compute_capability for gpu in gpus]
    found = []
    if least:
        found.append(
            _at_least(
                "compute-capability", "compute capability", least, capabilities, "the site has"
            )
        )
    if exact:
        found.append(_exactly(exact, capabilities))
    if driver:
        drivers = [gpu.driver for gpu in gpus]
        found.append(_at_least("driver", "a driver of", driver, drivers, "the site has"))
    return found


def _at_least(name: str, what: str, least: str, has: list[str], says: str) -> Check:
    """One that is high enough will do: of accelerators the config may name that one."""
    wanted = numbers(least) or ()
    known = [(version, parts) for version in has if version and (parts := numbers(version))]
    have = ", ".join(sorted({version for version, _ in known}))
    asks = f"needs {what} {least} or higher"
    if any(_padded(parts, wanted) >= wanted for _, parts in known):
        return _check(name, Answer.OK, least, have, f"{asks}, {says} {have}")
    if len(known) < len(has) or not known:
        return _check(name, Answer.UNKNOWN, least, have, f"{asks}; nobody said what {says}")
    return _check(name, Answer.NO, least, have, f"{asks}, {says} {have}")


def _exactly(exact: str, has: list[str]) -> Check:
    """A plan runs on no other capability, and Triton loads it on every accelerator that its config
    does not leave out."""
    asks = f"needs compute capability {exact}"
    have = ", ".join(sorted({version for version in has if version}))
    if all(version == exact for version in has):
        verdict, said = Answer.OK, f"{asks}, the site has it"
    elif exact in has:
        verdict, said = (
            Answer.UNKNOWN,
            f"{asks} on each accelerator it runs on; the site has {have}",
        )
    elif not all(has):
        verdict, said = Answer.UNKNOWN, f"{asks}; nobody said what the site has"
    else:
        verdict, said = Answer.NO, f"{asks}, the site has {have}"
    return _check("compute-capability", verdict, exact, have, said)


def _padded(parts: tuple[int, ...], like: tuple[int, ...]) -> tuple[int, ...]:
    return parts + (0,) * (len(like) - len(parts))


def _text(requires: Mapping[str, object], key: str) -> str:
    value = requires.get(key)
    return value if isinstance(value, str) else ""
