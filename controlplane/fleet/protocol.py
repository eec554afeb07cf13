"""Which edition of the agent protocol this centre speaks, and which agents speak another.

It must not know how a call travels."""

import uuid

from controlplane.accounts.secrets import secret_digest
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.fleet.models import Agent

SUPPORTED_PROTOCOL = "1"
_LONGEST = 20


def protocol_refusal(said: str, *, agent: str) -> InvalidInput:
    """What an agent is told that speaks another edition. `agent` is what it calls itself."""
    said = said[:_LONGEST]
    fault = FieldError(field="Waypost-Protocol", message=f"this centre speaks {SUPPORTED_PROTOCOL}")
    return InvalidInput(
        "protocol-unsupported",
        f"The agent ({agent[:60] or 'of no name'}) speaks protocol {said!r}, this centre speaks "
        f"{SUPPORTED_PROTOCOL}: upgrade {_older(said)}. The site goes on serving what it has.",
        errors=[fault],
    )


def note_refusal(said: str, *, secret: str, agent_id: str) -> None:
    """Lets people see it at the site, by the session of the call or the agent it names. Costs a
    write when it is new, and is over with the agent's next session."""
    agents = Agent.objects.filter(revoked_at=None)
    if secret:
        agents = agents.filter(agentsession__digest=secret_digest(secret))
    else:
        try:
            agents = agents.filter(pk=uuid.UUID(agent_id))
        except ValueError:
            return
    for agent in agents.exclude(refused_protocol=said[:_LONGEST]):
        Agent.objects.filter(pk=agent.pk).update(refused_protocol=said[:_LONGEST])


def _older(said: str) -> str:
    if not said.isascii() or not said.isdigit():
        return "the older of the two"
    return "the agent" if int(said) < int(SUPPORTED_PROTOCOL) else "this centre"
