"""What the reports of all benchmarks share: the machine, tables and figures."""
