"""The ``pyserve`` command. Forks the first zygote, then reads the command line beside it.

No ``from __future__`` here, nor in the package's own file: with ``python -m pyserve`` both run before the working
directory leaves the path, and that is an import.
"""

import os
import sys

STREAMS = ("stdin", "stdout", "stderr")  # None when their descriptors were closed
# With one of these nothing is served; --check-config loads the app and takes the early zygote as serving does.
NOT_SERVING = {"--help", "-h", "--version", "--print-config"}


def main() -> None:
    if not sys.flags.safe_path:
        # Where the script is, or, with -m, the working directory: the app's, whose modules are not for the master.
        del sys.path[0]
    if not sys.platform.startswith("linux"):
        sys.exit(f"pyserve: this is {sys.platform}; pyserve runs on Linux only")
    for fd in range(3):  # closed ones would become sockets, and the app's print() go there
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
            setattr(sys, STREAMS[fd], open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115  (for ever)
    if state := os.environ.pop("PYSERVE_UPGRADE", ""):  # this process is a master already; see upgrade.py
        from pyserve.takeover import take_over

        sys.exit(take_over(state))
    if sys.argv[-2:-1] == ["--prove-upgrade"]:
        from pyserve.takeover import prove

        sys.exit(prove(sys.argv[1:-2], int(sys.argv[-1])))
    import _signal  # type: ignore[import-not-found]  # typeshed does not have it

    for number in (_signal.SIGHUP, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGTTIN, _signal.SIGTTOU):
        _signal.signal(number, _signal.SIG_IGN)  # until the master has its handlers, there is nothing to reload
    from pyserve.master import zygotes

    if sys.argv[1:] and not NOT_SERVING.intersection(sys.argv) and (program := zygotes.fork_early()):
        exec(program, vars(sys.modules["__main__"]))
        sys.exit()
    try:
        from pyserve.cli import main as cli

        code = cli()
    finally:
        zygotes.discard_early()
    sys.exit(code)


if __name__ == "__main__":
    main()
