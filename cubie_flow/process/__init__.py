"""The process and the operating system: machine, streams, signals, start-up and profile."""
