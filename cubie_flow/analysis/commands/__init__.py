"""The commands of ``cubie-results``, one per module."""
