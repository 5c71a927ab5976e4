"""How fast classification is served: against its limit, against other servers, and as it grows."""
