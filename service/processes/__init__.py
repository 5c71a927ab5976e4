"""A host's processes: HTTP fronts, one engine, and the supervisor that keeps them running.

`service_supervisor` is the parent, `front` and `engine` are the programs of its children; the rest
is how parent and children know of each other.
"""
