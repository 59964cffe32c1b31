"""The ``pyserve`` command. Starts the first zygote's interpreter, then reads the command line beside it."""

from __future__ import annotations

import sys

# With one of these nothing is served; --check-config loads the app and takes the early zygote as serving does.
NOT_SERVING = {"--help", "-h", "--version", "--print-config"}


def main() -> None:
    if not sys.platform.startswith("linux"):
        sys.exit(f"pyserve: this is {sys.platform}; pyserve runs on Linux only")
    from pyserve import zygotes

    if sys.argv[1:] and not NOT_SERVING.intersection(sys.argv):
        zygotes.start_early()
    try:
        from pyserve.cli import main as cli

        code = cli()
    finally:
        zygotes.discard_early()
    sys.exit(code)


if __name__ == "__main__":
    main()
