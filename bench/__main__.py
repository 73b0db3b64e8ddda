"""python -m bench cpu | gpu | visit | audit | show | precision | replicate | cost.

Measure (cpu, gpu, audit), use a borrowed GPU, draw again what was measured (show), test bf16, train
a pair again by the usual loop, or say what every study costs. Each has --help."""

import sys

from kdlib.config import KdlibError


def main(arguments):
    command, *rest = arguments or ["--help"]
    if command == "cpu":
        from bench.cpu import main as run
    elif command == "gpu":
        from bench.gpu import main as run  # needs only torch, and a GPU
    elif command == "visit":
        from bench.visit import main as run
    elif command == "precision":
        from bench.precision import main as run
    elif command == "cost":
        from bench.cost import main as run
    elif command == "replicate":
        from bench.replicate import main as run
    elif command == "audit":
        from bench.audit import main as run
    elif command == "show":
        from bench.show import write

        return write()
    else:
        print(__doc__)
        return command not in ("-h", "--help")
    try:
        return run(rest)
    except KdlibError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
