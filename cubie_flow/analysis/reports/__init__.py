"""The report: one HTML file that says what was run and what came of it."""
