"""How the scripts of bench/device end, beside 0; bench/device/session.py reads it."""

__all__ = ["CUT", "FAILED"]

FAILED = 3  # it came to its end, and something failed in it
CUT = 4  # something was left out: another run could go on
