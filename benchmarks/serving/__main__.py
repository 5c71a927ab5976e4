"""How fast classification is served.

limit    HTTP throughput of the service over that of the backbone in a bare loop
peers    the service against LitServe, Mosec, BentoML and Ray Serve
tune     try out configurations of the peers; `peers` takes the best one found
fairness a tenant's latency beside one that asks for ten times its share
growth   time and memory against tenants, classes, batch size, and what a fit is given
report   write the tables and plots of what has been measured

A unit that was measured is kept; `--fresh` measures it again. See README.md in this folder.
"""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks.serving.commands import add_commands
from benchmarks.serving.errors import BenchmarkError

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run one command; 1 if it could not be done."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_commands(parser.add_subparsers(required=True), RESULTS)
    args = parser.parse_args()
    # Told to end, it ends its servers too, as it does on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for path in args.command(args):
            print(path)
    except BenchmarkError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; finished units are kept, the same command goes on\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
