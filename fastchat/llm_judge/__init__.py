"""Judging: answers to a benchmark's questions, verdicts on them, and what follows from both."""
