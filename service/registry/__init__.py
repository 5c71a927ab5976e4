"""What the registry's routes share: files in and out, preconditions, aliases, requests to fit.

The routes of prompts, tasks and ensembles are in `routes`; what they read and write is stored by
`prompt_store` and `jobs`.
"""
