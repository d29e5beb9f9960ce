"""Attacks after unlearning: ATTACKS, the table, and ``run_attacks``. See docs/attacks.md."""

from fastunlearn.audit.attacks.registry import ATTACKS, Attack
from fastunlearn.audit.attacks.run import AttackedReference, run_attacks

__all__ = ["ATTACKS", "Attack", "AttackedReference", "run_attacks"]
