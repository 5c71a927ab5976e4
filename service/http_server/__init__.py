"""The HTTP server: uvicorn, bounded where it is not, and left without losing a request.

`serving` runs an application on it. `protocol` is what a connection is served by, with
`request_parser` and `closing_transport`; `drain` the server, with `listeners` and
`shared_listener`. `gentle_close` and `slow_readers` are the application's part of the same, and
`last_resort` ends a process that hangs. Only these modules use uvicorn and httptools.
"""
