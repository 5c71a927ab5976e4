"""The Open Inference Protocol, version 2 (KServe, Triton): ensembles as models, for any client.

A model is an ensemble, a model's version one of its versions. `tensors` and `infer_request` read,
`infer_response` writes, `metadata`, `repository` and `statistics` describe; `routes` puts them
together. Sources: the KServe "Open Inference Protocol" and Triton's extensions for binary tensors,
classification, statistics, model configuration and model repository.
"""
