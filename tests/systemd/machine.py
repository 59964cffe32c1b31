"""A real systemd, booted as process 1 of namespaces of its own, without a container engine.

It shares this machine's files, except that /run, /tmp and /var/tmp are its own (a booting systemd empties them), and
/var/lib too (a service of the same name may have left its state here), and that /srv/myapp is a folder of the test's. None of this machine's units runs in it: it boots an empty target.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.processes import children, title, wait_for

SYSTEMD = "/lib/systemd/systemd"
TARGET = "pyserve-test.target"
NAMESPACES = ["unshare", "--pid", "--fork", "--mount", "--uts", "--ipc", "--kill-child"]
# $1: the folder that becomes /srv/myapp; the others: paths that must be visible inside, wherever they lie.
BOOT = f"""
set -eu
application=$1; shift
mount -t tmpfs tmpfs /mnt
for own in /srv /tmp /var/tmp /var/lib; do
    mkdir -p /mnt$own
    mount --rbind $own /mnt$own
    mount -t tmpfs tmpfs $own
done
show() {{
    case $1 in
        /srv/*|/tmp/*|/var/tmp/*|/var/lib/*) mkdir -p "$2"; mount --bind "/mnt$1" "$2";;
        *) [ "$1" = "$2" ] || mount --bind "$1" "$2";;
    esac
}}
mkdir -p /srv/myapp
show "$application" /srv/myapp
for path; do show "$path" "$path"; done
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
mkdir -p /run/lock /run/systemd/system
printf '[Unit]\\nDefaultDependencies=no\\n' > /run/systemd/system/{TARGET}
export container=test
exec {SYSTEMD} --system --unit={TARGET} --log-target=console --show-status=no
"""


def why_not() -> str:
    """Why no systemd can be booted here; empty if one can."""
    if os.geteuid() != 0:
        return "only root can boot a systemd"
    if not os.path.exists(SYSTEMD) or not shutil.which("systemctl"):
        return "systemd is not installed (Debian: systemd)"
    if os.path.exists("/run/systemd/system"):
        return "a systemd runs this machine, and a second one would share its control groups"
    if subprocess.run([*NAMESPACES, "true"], check=False, capture_output=True).returncode != 0:
        return "unshare(1) may not make namespaces here"
    return ""


class Machine:
    """A booted systemd. ``application`` is seen inside as /srv/myapp, and so is this interpreter's environment."""

    def __init__(self, application: Path, log: Path) -> None:
        self.log = log
        self.groups = control_groups()
        visible = [sys.prefix, sys.base_prefix, str(Path(__file__).parents[2])]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*NAMESPACES, "sh", "-c", BOOT, "boot", str(application), *visible],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = 0  # systemd's, as seen outside
        try:
            wait_for(self.has_booted, "systemd's start")
        except BaseException:
            self.stop()
            print(log.read_text(errors="replace"))
            raise

    def has_booted(self) -> bool:
        assert self.process.poll() is None, "systemd did not start"
        self.pid = next(iter(children(self.process.pid)), 0)
        return title(self.pid).startswith(SYSTEMD) and self.systemctl("is-active", TARGET, check=False) == "active"

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """What ``systemctl`` prints inside."""
        return self.run("systemctl", *arguments, check=check)

    def run(self, *command: str, check: bool = True) -> str:
        """What a command prints inside; AssertionError, with its words, if it fails."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", *command]
        done = subprocess.run(inside, check=False, capture_output=True, text=True, timeout=120)
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def write(self, name: str, text: str) -> None:
        """A file below /run/systemd/system: a unit, or ``UNIT.d/NAME.conf``."""
        path = Path(f"/proc/{self.pid}/root/run/systemd/system/{name}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def outside(self, pid: int) -> int:
        """The process id outside of a process that has ``pid`` inside."""
        for candidate in filter(str.isdecimal, os.listdir("/proc")):
            try:
                status = Path(f"/proc/{candidate}/status").read_text()
                same = os.readlink(f"/proc/{candidate}/ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid")
            except OSError:  # it has ended meanwhile
                continue
            if same and f"NSpid:\t{candidate}\t{pid}\n" in status:
                return int(candidate)
        raise AssertionError(f"no process {pid} in there")

    def stop(self) -> None:
        """End it: with its process 1, every process of the namespace ends."""
        inside = children(self.process.pid)
        self.process.kill()  # unshare's --kill-child ends systemd
        self.process.wait()
        wait_for(lambda: not any(title(pid) for pid in inside), "the end of systemd")
        for folder in sorted(control_groups() - self.groups, reverse=True):
            with contextlib.suppress(OSError):  # another test's, and in use
                folder.rmdir()


def control_groups() -> set[Path]:
    """The control groups that a systemd makes for its units."""
    return {found for name in ("*.slice", "*.scope") for found in Path("/sys/fs/cgroup").glob(f"**/{name}/**")}
