"""Faults on purpose: kills, damaged stores and hostile folders, through the public commands."""
