#!/bin/sh
# Run the tests of what apps and clients can reach in native code, with that code under AddressSanitizer and
# UndefinedBehaviorSanitizer: tests/asan/run.sh [PYTEST ARGUMENTS]. Needs gcc with libasan. Exit status 1 if a test failed
# or a sanitizer has found something; its reports are printed, and stay in build/asan/reports.
#
# There are two builds. Greenlets take turns on one stack, and their frames are copied away and back, while what ASan
# knows of a frame stays where it was. So with gevent the heap alone is watched, with all others the stack, too.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
reports="$root/build/asan/reports"
library=$(gcc -print-file-name=libasan.so)
exceptions=$(gcc -print-file-name=libstdc++.so.6) # greenlet is C++, and ASan has to find __cxa_throw when it starts
# The last of these measures the memory of the process, which is ASan's here.
suites="accesslog again buffer_memory concurrent environ hostile_apps input interrupt parcel parts pipelining requests
    sending start_response validate wsgi"
others="not test_memory_does_not_grow_with_a_stream"

if [ ! -e "$library" ]; then
    echo "tests/asan/run.sh: gcc has no libasan (Debian: libasan8)" >&2
    exit 2
fi
cd "$root"
if [ $# -eq 0 ]; then
    for suite in $suites; do set -- "$@" "tests/wire/test_$suite.py"; done
    set -- -n "${JOBS:-2}" "$@"
fi
rm -rf "$reports"
mkdir -p "$reports"
status=0
for watched in stack heap; do
    case $watched in
        stack) flags="" tests="not gevent and $others" ;;
        heap) flags="--param=asan-stack=0" tests="gevent and $others" ;;
    esac
    build="$root/build/asan/$watched"
    echo "asan: building the native modules; the $watched is watched"
    CFLAGS="-g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined $flags" \
        LDFLAGS="-fsanitize=address,undefined" \
        "$python" setup.py -q build --build-base "$build" --build-lib "$build/lib" >"$reports/build-$watched.log" 2>&1 ||
        { cat "$reports/build-$watched.log"; exit 2; }
    PYTHONPATH="$build/lib" PYTHONMALLOC=malloc LD_PRELOAD="$library $exceptions" \
        ASAN_OPTIONS="detect_leaks=0:quarantine_size_mb=64:abort_on_error=1:log_path=$reports/asan" UBSAN_OPTIONS="print_stacktrace=1:log_path=$reports/ubsan" \
        "$python" -m pytest -q -p no:cacheprovider -k "$tests" "$@" || status=1
done
for report in "$reports"/*san.*; do
    [ ! -e "$report" ] || { cat "$report"; status=1; }
done
exit $status
