"""Prometheus metrics: of requests, of classification, of aliases and of the fits' queue.

`host` gathers those of all processes of a host; each process has a registry of its own.
"""
