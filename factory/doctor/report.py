"""What `factory doctor` reports: findings, in the order of the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        part: section of the report.
        name: subject of the finding.
        state: ok; note: information, nothing to repair; problem: something does not work.
        text: the finding in words.
        advice: how to solve a problem.
        facts: the finding for programs.
    """

    part: str
    name: str
    state: State
    text: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All findings, in the order of the report."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Findings that need action."""
        return tuple(finding for finding in self.findings if finding.state == "problem")

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON: ``{"ok": bool, "findings": [{part, name, state, text, advice, facts}]}``."""
        return {"ok": not self.problems, "findings": [asdict(finding) for finding in self.findings]}
