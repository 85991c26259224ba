"""Answers that are kept, so that the same question costs nothing the second time."""
