"""Classification: one frozen backbone answers for every ensemble, mixing them in each batch.

A request goes `resolver` (name to digest) -> `admission` (bounded) -> `decoding` (pixels) -> an
`EngineClient`: `residency` (pins the artifact on the device) -> `batcher` (fair queue) -> `engine`
(one `forward` pass: the backbone, then `heads`). `engine_parts` puts the engine together.
"""
