"""Progress, summaries and logs of a run."""
