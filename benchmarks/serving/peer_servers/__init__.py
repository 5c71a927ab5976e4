"""The peers' servers: each a program of its own, run in the peers' environment.

Every one gets the same weights, the same decoding and the same tenants; only serving differs. They
take POST /classify with the tenant's number and the image, and answer JSON.
"""
