"""An engine's process that prints more than anybody will read before it says its port."""

import contextlib
import sys

from fust.serve.engines.child_main import ChildConfig, run_child


def start(config: ChildConfig) -> int:
    for _ in range(70):
        with contextlib.suppress(OSError):
            print("rubbish " * 2**17, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(run_child(start))
