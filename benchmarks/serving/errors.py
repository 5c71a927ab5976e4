"""What the benchmark itself can raise."""


class BenchmarkError(RuntimeError):
    """Base of every error of this package."""


class ServerStartError(BenchmarkError):
    """A server did not become ready in time or in memory, or ended."""


class LoadError(BenchmarkError):
    """The load generator is missing, failed, or met answers other than 200."""


class UnequalOutputsError(BenchmarkError):
    """Two servers do not give the same probabilities, so their speeds cannot be compared."""
