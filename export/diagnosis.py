"""What `locate` says: causes in order of certainty, in words a user can act on."""

from __future__ import annotations

from dataclasses import dataclass

CERTAINTIES = ("certain", "likely", "possible")


@dataclass(frozen=True)
class Finding:
    """One cause, or what is known of where it is.

    Attributes:
        cause: "weights-of-another-layer", "weight-sign", "weight-altered", "weight-not-finite", "stale-vq",
            "vq-graph", "guidance-rows-swapped", "position-offset", "layers-swapped", "states-exchanged",
            "state-transposed", "overflow", "near-overflow", "half-precision" or "first-outside".
        where: the layer, state, weight or graph, as the bundle names it.
        certainty: one of `CERTAINTIES`. "certain": read from the files, or the one change that makes the
            bundle match; "likely": measured, more than one cause would look so; "possible": a hint.
        text: what was found.
        action: what to do about it.
    """

    cause: str
    where: str
    certainty: str
    text: str
    action: str

    def line(self) -> str:
        """All of it in one line."""
        return f"{self.certainty}: {self.text}; {self.action}"


@dataclass(frozen=True)
class Diagnosis:
    """Findings, the most certain first, and notes on what was looked at and ruled out."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, findings: list[Finding], notes: list[str]) -> Diagnosis:
        """Orders the findings; of equal certainty, as given."""
        return cls(tuple(sorted(findings, key=lambda f: CERTAINTIES.index(f.certainty))), tuple(notes))

    def lines(self) -> list[str]:
        """Findings, then notes, a line each."""
        return [finding.line() for finding in self.findings] + [f"note: {note}" for note in self.notes]
