"""Grades a class, every submission in a sandbox: `python -m tools.grading --help`."""
