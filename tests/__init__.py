"""Tests; a package, so that another one of this name among the installed ones is never taken for it."""
