"""The command ``python -m cubie_flow`` and its tasks."""
