"""Applies this site's own rule about code in versions: `allow_executable` of agent.toml.

Decides by what lies on this disk and in the manifest, by nothing that the centre says. What served
here verified, last or before that, is no matter of the rule: it is loaded again after a restart and
for a way back, as users need it more than the rule, and its bytes are those that were allowed then.
"""

from __future__ import annotations

from collections.abc import Callable

from waypost_agent.bundle_class import (
    DATA,
    EXECUTABLE,
    OPAQUE,
    REFUSED,
    Finding,
    by_config,
    by_names,
)
from waypost_agent.errors import EXECUTABLE_REFUSED, Permanent
from waypost_agent.manifest import CONFIG_FILE, Manifest
from waypost_agent.ports import ConfigCodec
from waypost_agent.situation import Fit, Record, Target
from waypost_agent.store import Store

_CURE = (
    "this site takes no versions that run code; its operator may set allow_executable = true in "
    "agent.toml and restart the agent, the control plane cannot"
)


class Bundles:
    """`is_signed` says of a manifest whether one of this site's release keys vouches for it."""

    def __init__(
        self,
        store: Store,
        codec: ConfigCodec,
        *,
        allow_executable: bool,
        is_signed: Callable[[Manifest], bool] = lambda manifest: False,
    ) -> None:
        self._store = store
        self._codec = codec
        self._allow_executable = allow_executable
        self._is_signed = is_signed
        self._findings: dict[str, Finding] = {}  # by digest, once the configuration was seen

    def look(self, model: str, target: Target, manifest: Manifest, record: Record) -> Fit:
        """Whether the rule lets `target` be loaded here, as far as can be told yet."""
        finding = self._find(model, target, manifest)
        code, reason = self._judge(target, manifest, finding)
        if not code:
            return Fit()
        if record.has_served(target):
            return Fit(
                note=f"it {finding.reason}; no such version is taken any more, this one stays"
            )
        return Fit(reason_code=code, reason=reason, is_rule=True)

    def require(self, model: str, target: Target, manifest: Manifest, record: Record) -> None:
        """The same as the last thing before a load. Raises `Permanent`."""
        fit = self.look(model, target, manifest, record)
        if fit.reason_code:
            raise Permanent(fit.reason_code, fit.reason)

    def _judge(self, target: Target, manifest: Manifest, finding: Finding) -> tuple[str, str]:
        """Code and sentence of a refusal, both empty without one."""
        reason = f"version {target.version} {finding.reason}"
        if finding.kind == REFUSED:
            return finding.code, reason
        is_free = finding.kind == DATA or (finding.kind == OPAQUE and self._is_signed(manifest))
        if is_free or self._allow_executable:
            return "", ""
        return EXECUTABLE_REFUSED, f"{reason}: {_CURE}"

    def _find(self, model: str, target: Target, manifest: Manifest) -> Finding:
        if (known := self._findings.get(manifest.digest)) is not None:
            return known
        files = [file.path for file in manifest.files]
        named = by_names(files)
        text = None
        recorded = self._store.manifest(model, target.version)
        if recorded is not None and recorded.digest == manifest.digest:
            text = self._store.peek_record(model, target.version, CONFIG_FILE)
        if text is None:
            return named
        try:
            found = by_config(self._codec.parse(text.decode()), files)
        except ValueError:
            # No step but one loads it, and that says what is wrong with it.
            return named
        finding = _stricter(named, found)
        self._findings[manifest.digest] = finding
        return finding


def _stricter(named: Finding, found: Finding) -> Finding:
    order = (DATA, OPAQUE, EXECUTABLE, REFUSED)
    return named if order.index(named.kind) >= order.index(found.kind) else found
