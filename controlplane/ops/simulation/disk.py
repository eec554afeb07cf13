"""What survives a crash of the agent: its journal, and what lies on the disk of its site.

Each field changes in one step, as the agent's durable writes do."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from waypost_agent.situation import Record, Wish


@dataclass(kw_only=True)
class ModelDisk:
    """One model's files. `named` is the version that its configuration on disk names. Sets are
    replaced and never changed in place, so whoever looked can see whether they are the same."""

    installed: Mapping[str, str] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()
    leftovers: frozenset[str] = frozenset()
    has_candidate: bool = False
    named: str | None = None


@dataclass(frozen=True, kw_only=True)
class Held:
    """The wishes in force, and the generation they came with."""

    generation: int
    wishes: tuple[Wish, ...]


@dataclass(kw_only=True)
class Disk:
    """Journal and files of one site. `sessions` counts the agent's lives."""

    held: Held | None = None
    sessions: int = 1
    records: dict[str, Record] = field(default_factory=dict)
    models: dict[str, ModelDisk] = field(default_factory=dict)

    def record(self, model: str) -> Record:
        return self.records.get(model) or Record()

    def of(self, model: str) -> ModelDisk:
        return self.models.setdefault(model, ModelDisk())
