"""Files in memory that have no name.

Where memfd_create() is denied, as by the seccomp profiles of some containers, they are in a folder whose files are
in memory, or at least temporary; such a file cannot be sealed.
"""

from __future__ import annotations

import errno
import os

DENIED = (errno.EPERM, errno.EACCES, errno.ENOSYS)  # what system calls answer that are not to be had here
FOLDERS = ("/dev/shm", "/tmp", "/var/tmp")


def create(name: str, flags: int = 0) -> int:
    """A descriptor, close-on-exec; ``flags`` are MFD_…, and ``name`` is what /proc shows. OSError."""
    try:
        return os.memfd_create(f"pyserve-{name}", os.MFD_CLOEXEC | flags)
    except OSError as error:
        if error.errno not in DENIED:
            raise
        for folder in FOLDERS:
            try:
                return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError as other:
                error = other
        raise error
