/* Unlinked temporary files for bodies and responses that are too large to keep in memory. */
#ifndef PYSERVE_SPOOL_H
#define PYSERVE_SPOOL_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* A descriptor of a new file in `directory` that has no name (mode 0600), or -1 with errno. */
static inline int spool_open(const char *directory)
{
    char path[PATH_MAX];
    int fd;
#ifdef O_TMPFILE
    fd = open(directory, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
        return fd;
#endif
    /* A file system without O_TMPFILE: NFS, some FUSE ones. */
    if (snprintf(path, sizeof path, "%s/pyserve-XXXXXX", directory) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

/* Writes all of it at `offset`: 0, or the errno of the failure. */
static inline int spool_write(int fd, const char *data, size_t size, uint64_t offset)
{
    while (size > 0) {
        ssize_t n = pwrite(fd, data, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        data += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

/* Reads all of it from `offset`: 0, or the errno of the failure (EIO if the file ends early). */
static inline int spool_read(int fd, char *data, size_t size, uint64_t offset)
{
    while (size > 0) {
        ssize_t n = pread(fd, data, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        data += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

#endif
