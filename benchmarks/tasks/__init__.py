"""Labelled image tasks made from packages in the public registries, no data hub needed."""
