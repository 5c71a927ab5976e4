"""Classification: one frozen backbone answers for every ensemble, mixing them in each batch.

A request goes `resolver` (name to digest) -> `admission` (bounded) -> `residency` (pins the
artifact's slot) -> `decoding` (pixels) -> `batcher` (fair queue) -> `engine` (one forward pass).
"""
