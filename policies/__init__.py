"""The decisions: pure functions over frozen data. This package imports the standard library and itself, nothing else."""
