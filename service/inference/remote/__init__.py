"""An engine in another process of the same host: messages over a unix socket, pixels in memory.

`client` and `link` are the front's side, `server` and `session` the engine's; `messages`, `frames`,
`failures` and `handshake` are what both agree on, `arena` the memory that they share.
"""
