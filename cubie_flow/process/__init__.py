"""The operating system: streams, signals, start-up and profile of the process."""
