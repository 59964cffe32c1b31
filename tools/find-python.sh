#!/bin/sh
# Print the Python to build with: python3 if it is new enough, else the newest that is. Print nothing if there is none.
for name in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do
    # A name alone is not enough: a version manager's shim may be there for a version that is not active.
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        command -v "$name"
        exit
    fi
done
