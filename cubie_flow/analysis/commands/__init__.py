"""The commands of ``cubie-results``, one a module."""
