"""The `analysis` command, also `python -m analysis`: interrupted without a traceback even while it is imported."""

import signal
import sys


def main() -> int:
    """Run the command of the process's arguments. Returns the exit code."""
    try:
        from analysis.cli import main as command

        code = command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    if code > 128:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C finds the interpreter clearing up
    if code == 9:  # another rank has ended, and torchrun ends this one, which ends by itself
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
