"""Immutable prompts, tasks and artifacts over an object store; free of torch.

`codec`, `artifacts` and `vpt` turn bytes into checked arrays and back; `objects` and `blobs` keep
bytes durably; `registry` names and versions them; `idempotency` remembers the first answer.
"""
