"""Classification: one frozen backbone answers for every ensemble, mixing them in each batch.

A request goes `resolver` (name to digest) -> `admission` (bounded) -> `decoding` (pixels) -> an
`EngineClient`: `residency` (pins the artifact's slot) -> `batcher` (fair queue) -> `engine` (one
forward pass).
"""
