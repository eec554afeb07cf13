"""What a plan does that its author may not have meant: sentences to read before it is started.

Nothing is decided by them. It must not know how the sites were chosen."""

from collections.abc import Mapping, Sequence

from controlplane.domain.policy import OnSilent, warnings
from controlplane.domain.selector import NO_HARDWARE, SiteTraits
from controlplane.domain.stages import StageSpec

NAMED = 5  # sites named in one sentence


def cautions(
    stages: Sequence[tuple[StageSpec, tuple[str, ...]]],
    candidates: Sequence[SiteTraits],
    excluded: Mapping[str, str],
) -> list[str]:
    """Of the stages with the sites they take, by name; `excluded` with the reason."""
    stage_of = {name: spec.name for spec, names in stages for name in names}
    found: list[str] = []
    for spec, names in stages:
        sentences = [_named_but_absent(spec, names, stage_of, excluded)]
        if not names and spec.conditions():
            sentences.append(_selects_nobody(spec, candidates, excluded))
        sentences += warnings(spec.policy, len(names))
        asked = spec.count if spec.per is None else None
        if names and asked is not None and asked > len(names):
            sentences.append(f"asks for {asked} sites, {len(names)} are left to take")
        found += [f"stage {spec.name}: {sentence}" for sentence in sentences if sentence]
    specs = [spec for spec, _ in stages]
    puts_off = [s.name for s in specs if s.policy.on_silent is OnSilent.DEFER and not s.trailing]
    if puts_off and not specs[-1].trailing:
        found.append(
            f"stage {', '.join(puts_off[:NAMED])} puts silent sites off, but no stage is trailing: "
            "they stay without the version"
        )
    return found + _unproven(stages, candidates)


def _named_but_absent(
    spec: StageSpec, names: Sequence[str], stage_of: Mapping[str, str], excluded: Mapping[str, str]
) -> str:
    """Sites named for the stage that are not in it, each with the reason; where some of those named
    were to be drawn, the others are no surprise."""
    absent = sorted((spec.sites or frozenset()) - set(names))
    if names and spec.draws:
        absent = [name for name in absent if name in excluded]
    if not absent:
        return ""
    reasons = [f"{n} ({excluded.get(n) or _elsewhere(n, stage_of)})" for n in absent[:NAMED]]
    more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    which = "only sites that it does not get" if not names else "sites that it does not get"
    return f"names {which}: {', '.join(reasons)}{more}"


def _elsewhere(name: str, stage_of: Mapping[str, str]) -> str:
    taken = stage_of.get(name)
    return f"in stage {taken}" if taken else "the other conditions of the stage leave it out"


def _selects_nobody(
    spec: StageSpec, candidates: Sequence[SiteTraits], excluded: Mapping[str, str]
) -> str:
    if spec.sites is not None:
        return ""
    matching = [c.name for c in candidates if spec.matches(c)]
    if not matching:
        return "no site matches its conditions"
    if all(name in excluded for name in matching):
        return "every site that matches its conditions is left out"
    return "earlier stages take every site that matches its conditions"


def _unproven(
    stages: Sequence[tuple[StageSpec, tuple[str, ...]]], candidates: Sequence[SiteTraits]
) -> list[str]:
    """What the first stage does not show though later ones rely on it."""
    (first, drawn), later = stages[0], [name for _, names in stages[1:] for name in names]
    if not later:
        return []
    if not drawn:
        return [f"stage {first.name} is the first and takes no site: it proves nothing"]
    hardware = {c.name: c.hardware for c in candidates}
    unseen = {hardware[name] for name in later} - {hardware[name] for name in drawn}
    unseen -= {NO_HARDWARE}
    if not unseen or first.hardware is not None:
        return []
    some = ", ".join(sorted(unseen)[:NAMED])
    return [f"stage {first.name} has no site with {some}, which later stages have"]
