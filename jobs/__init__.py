"""Fits: what one is, where its durable record lies, and how it reaches a worker.

`records` says what a fit request and its outcome are, `ensembles` keeps them in the object store,
`desk` is what the HTTP service talks to and `worker` is what a worker process runs. Free of torch.
"""
