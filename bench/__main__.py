"""python -m bench cpu | visit | cost | faults.

Measure the speed on this CPU, use a borrowed GPU, say what every study costs, or damage records and
kill runs on purpose."""

import importlib
import sys

from kdlib.config import KdlibError

COMMANDS = ("cpu", "visit", "cost", "faults")


def main(arguments):
    command, *rest = arguments or ["--help"]
    if command not in COMMANDS:
        print(__doc__)
        return command not in ("-h", "--help")
    try:
        return importlib.import_module(f"bench.{command}").main(rest)
    except KdlibError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
