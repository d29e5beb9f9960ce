"""What a verification found, and what follows from it in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from .canonical import visible

__all__ = ["Check", "VerificationResult"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ``passed``: None where it is only worth knowing.
    ``says``: what was found, in words; never text of a record."""

    name: str
    passed: bool | None
    says: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "says", visible(self.says))  # it may quote what a forger wrote


@dataclass
class VerificationResult:
    """All checks in order, and sentences: what is ``proven``, what is ``not_proven``."""

    run: str | None
    checks: list[Check] = field(default_factory=list)
    proven: list[str] = field(default_factory=list)
    not_proven: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no check failed (and there was any)."""
        return bool(self.checks) and all(check.passed is not False for check in self.checks)

    @property
    def failures(self) -> list[Check]:
        return [check for check in self.checks if check.passed is False]

    def __getitem__(self, name: str) -> Check:
        """The check of that name. Raises KeyError where it was not made."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def to_dict(self) -> dict:
        """Ready for JSON."""
        return {"passed": self.passed, **asdict(self)}

    def text(self) -> str:
        """Lines for a terminal."""
        marks = {True: "ok", False: "FAILED", None: "--"}
        lines = [f"{marks[check.passed]:7}{check.name}: {check.says}" for check in self.checks]
        for title, sentences in (("What this shows", self.proven), ("What it does not show", self.not_proven)):
            if sentences:
                lines += ["", title, *(f"  - {sentence}" for sentence in sentences)]
        failed = len(self.failures)
        verdict = "VERIFIED" if self.passed else f"NOT VERIFIED: {failed} of {len(self.checks)} checks failed"
        return "\n".join([*lines, "", verdict])
