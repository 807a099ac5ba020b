"""Sanitizers on the CPU library; see `python -m tests.sanitize --help`."""
