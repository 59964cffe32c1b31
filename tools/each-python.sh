#!/usr/bin/env bash
# Run the tests with each of the Python versions named that is on this machine, each in a virtual environment of its own:
#
#     tools/each-python.sh 3.12 3.13       PYTEST_ARGS and other make variables count here too
set -euo pipefail
cd "$(dirname "$0")/.."

# A working interpreter of that version, from the PATH or from pyenv.
find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if "$candidate" -c '' 2>/dev/null; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

tested=()
for version in "$@"; do
    if python=$(find_python "$version"); then
        echo "=== Python $version: $python"
        make --no-print-directory test VENV=".venv-$version" PYTHON="$python"
        tested+=("$version")
    fi
done
echo "=== tested with Python: ${tested[*]:-none of $* is here}"
