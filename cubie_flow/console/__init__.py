"""What a command prints and logs: tables, progress, the log file of a run."""
