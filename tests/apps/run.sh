#!/bin/sh
# Run real applications under pyserve, with their own clients: tests/apps/run.sh [NAME...]; all of them if none is named.
# Each has a virtual environment of its own, build/apps/NAME, with what tests/apps/NAME.txt asks for and pyserve as this
# checkout builds it. Pytest runs inside, with PYTEST_ARGS (-k gevent). Exit status 1 if a test failed, 2 if a name is wrong.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
build=build/apps
cd "$root"

[ $# -gt 0 ] || set -- $(basename -s .txt tests/apps/*.txt)
for name in "$@"; do
    [ -e "tests/apps/$name.txt" ] || {
        echo "tests/apps/run.sh: no application $name; there are: $(basename -s .txt tests/apps/*.txt | xargs)" >&2
        exit 2
    }
done
rm -f $build/*.whl
"$python" -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w $build .
status=0
for name in "$@"; do
    echo "=== $name"
    own="$build/$name/bin/python"
    [ -x "$own" ] || "$python" -m venv "$build/$name"
    "$own" -m pip install -q --disable-pip-version-check $build/*.whl gevent hypothesis pytest pytest-timeout requests \
        -r "tests/apps/$name.txt"
    "$own" -m pip install -q --disable-pip-version-check --force-reinstall --no-deps $build/*.whl # of the same version
    # Warnings are the affair of applications and clients here.
    # shellcheck disable=SC2086
    "$own" -m pytest -q -W default -p no:cacheprovider ${PYTEST_ARGS:-} "tests/apps/test_$name.py" || status=1
done
exit $status
