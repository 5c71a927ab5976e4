"""Benchmarks of a running service."""
