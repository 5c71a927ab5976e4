"""The HTTP service: registry of prompts and tasks, fits of ensembles, and classification.

`main` is the composition root. `routes` has one file a group; `inference` is free of HTTP;
`errors` is the one place where a package's error becomes a problem document.
"""
