"""Benchmarks on the user's own machine: ours, the peers that are installed, and the machine's limit.

A *kind* of case is a module with ``ways(case, device)``, ``truth(case, device)`` and ``limit(case, peaks)``, so that
the command, pytest-benchmark and the memory measurement in a process of its own all run the same functions.
"""
