"""Applies this site's own rule about who may release versions: [trust] of agent.toml.

Decides by keys on this machine and by the manifest, by no word of the centre: that hands signatures
on, and can leave one out, which makes this site refuse. What serves is never a matter of the rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from waypost_agent.errors import SIGNATURE_INVALID, SIGNATURE_MISSING, ConfigError
from waypost_agent.manifest import Manifest
from waypost_agent.signature import ReleaseKey, SignatureFault, check_bundle, parse_key
from waypost_agent.situation import Fit, Target
from waypost_agent.trust_config import ALLOWED, REFUSED, TrustConfig

KIND = "oms"  # the one kind of proof that this agent knows; others are passed over
_MOST_REMEMBERED = 256
_MAX_KEY_BYTES = 16 << 10


class Trust:
    """`keys` may sign; `unsigned` says what becomes of a version that none of them signed."""

    def __init__(self, keys: Sequence[ReleaseKey] = (), unsigned: str = ALLOWED) -> None:
        self.keys = tuple(keys)
        self.unsigned = unsigned
        # By manifest and signatures: the fingerprint of the signer, or the code and why there is
        # none. Looked at in every cycle, and a bundle may be long.
        self._known: dict[str, tuple[str, str, str]] = {}
        self._signed: set[str] = set()

    def look(
        self,
        target: Target,
        manifest: Manifest,
        signatures: Sequence[Mapping[str, Any]],
        *,
        committed: Target | None,
    ) -> Fit:
        """Whether `target` may be fetched and loaded here. What serves for good stays, whoever
        signed it; another version that served before is asked like any."""
        if not self.keys:
            return Fit()
        signer, code, reason = self._judge(manifest, signatures)
        if signer:
            return Fit()
        said = f"version {target.version} {reason}"
        if target == committed or self.unsigned != REFUSED:
            return Fit() if self.unsigned == ALLOWED else Fit(note=said)
        return Fit(
            reason_code=code,
            reason=f"{said}; [trust] of agent.toml refuses that, and the control plane cannot "
            "change it",
            is_rule=True,
        )

    def is_signed(self, manifest: Manifest) -> bool:
        """Whether one of this site's keys signed it, as far as it was looked at."""
        return manifest.digest in self._signed

    def document(self) -> dict[str, Any]:
        """As a report's inventory has it."""
        return {"unsigned": self.unsigned, "keys": [key.fingerprint for key in self.keys]}

    def _judge(
        self, manifest: Manifest, signatures: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str, str]:
        bundles = [each.get("bundle") for each in signatures if each.get("kind") == KIND]
        text = json.dumps([manifest.digest, bundles], sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()
        known = self._known.get(name)
        if known is None:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[name] = self._verify(manifest, bundles)
            if known[0]:
                self._signed.add(manifest.digest)
        return known

    def _verify(self, manifest: Manifest, bundles: Sequence[object]) -> tuple[str, str, str]:
        files = {file.path: file.sha256 for file in manifest.files}
        faults = []
        for bundle in bundles:
            try:
                return check_bundle(bundle, self.keys, files).fingerprint, "", ""
            except SignatureFault as fault:
                faults.append(fault.reason)
        if not faults:
            return "", SIGNATURE_MISSING, "comes without a signature"
        reasons = "; ".join(dict.fromkeys(faults))[:250]
        return "", SIGNATURE_INVALID, f"has no signature that counts here: {reasons}"


def make_trust(config: TrustConfig) -> Trust:
    """Reads the keys. Raises `ConfigError` naming the file: a site whose keys cannot be read must
    not take unsigned versions, nor fail every version for it."""
    keys = {}
    for path in config.keys:
        try:
            with path.open("rb") as file:
                key = parse_key(file.read(_MAX_KEY_BYTES))
        except OSError as error:
            raise ConfigError(f"trust.keys: {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"trust.keys: {path} {error}") from error
        keys[key.fingerprint] = key
    return Trust(tuple(keys.values()), config.unsigned)
