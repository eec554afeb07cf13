"""Judges the journal and what serves: whether record, disk and server agree, and the answers."""

from __future__ import annotations

from waypost_agent.doctor.facts import Check, Facts, ModelFacts, fail, not_applicable, ok, warn
from waypost_agent.servers import owner


def model_checks(facts: Facts) -> tuple[Check, ...]:
    return (journal(facts), *(check for model in facts.models for check in _of(facts, model)))


def journal(facts: Facts) -> Check:
    name, seen = "journal", facts.journal
    if facts.config is None:
        return not_applicable(name, "the configuration cannot be read")
    if seen.unreadable:
        return fail(
            name,
            f"cannot be read: {', '.join(seen.unreadable)}",
            "restart the agent: it sets them aside and proves those versions anew",
        )
    if seen.set_aside:
        return warn(
            name,
            f"set aside as damaged: {', '.join(seen.set_aside)}",
            "check this disk (smartctl -a), then remove the .damaged files",
        )
    return ok(name, f"{len(facts.models)} models on record")


def _of(facts: Facts, model: ModelFacts) -> tuple[Check, ...]:
    return (record(facts, model), golden(model))


def record(facts: Facts, model: ModelFacts) -> Check:
    """Whether disk and server have what the journal says serves."""
    name = f"record of {model.model}"
    if (elsewhere := _elsewhere(facts, model)) is not None:
        return elsewhere
    if model.committed is None:
        return not_applicable(name, "nothing was verified here yet")
    if not model.committed_on_disk:
        return fail(
            name,
            f"the files of version {model.committed}, the verified one, are not complete",
            "nothing by hand: the agent fetches them again when the centre can be reached",
        )
    if model.config_names is not None and model.config_names != model.committed:
        return warn(
            name,
            f"config.pbtxt names version {model.config_names}, the verified one is "
            f"{model.committed}",
            "nothing by hand while a change is under way, else restart the agent",
        )
    if facts.server is not None and facts.server.live and model.serving != model.committed:
        return warn(
            name,
            f"version {model.serving or 'none'} serves, the verified one is {model.committed}",
            "nothing by hand while a change is under way, else see waypost-agent status",
        )
    return ok(name, f"version {model.committed} is verified and complete")


def _elsewhere(facts: Facts, model: ModelFacts) -> Check | None:
    """A model that another server takes now: nobody looks after what is left of it here."""
    if facts.config is None or facts.of is None:
        return None
    taker = owner(model.model, facts.config.shares)
    if taker == facts.of.name or model.serving is None:
        return None
    path = facts.of.triton.repository / model.model
    return warn(
        f"record of {model.model}",
        f"version {model.serving} serves here, though the model belongs to "
        f"{'no server' if taker is None else taker} now",
        f"name it in models of {facts.of.name} again, or remove {path} and restart this Triton",
    )


def golden(model: ModelFacts) -> Check:
    name = f"golden requests of {model.model}"
    if model.golden is None:
        return not_applicable(name, model.golden_reason)
    if model.golden:
        return ok(name, model.golden_reason)
    return fail(
        name,
        model.golden_reason,
        f"waypost-agent rollback {model.model}, or deploy a version that answers rightly",
    )
