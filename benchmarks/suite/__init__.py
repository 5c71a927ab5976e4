"""Every method on every task, leave one task out: `python -m benchmarks.suite`."""
