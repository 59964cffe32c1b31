#!/bin/sh
# Fuzz the parser: tests/fuzz/run.sh [SECONDS], that long for each target. Needs clang with libFuzzer (Debian: clang, libclang-rt-14-dev).
# Finds go to build/fuzz/: new inputs to <target>-corpus/, crashes to <target>-crash-*. Exit status 1 if a target failed.
set -eu

seconds=${1:-60}
root=$(cd "$(dirname "$0")/../.." && pwd)
source="$root/workers/pyserve_workers/http1"
build="$root/build/fuzz"
clang=${CLANG:-clang}

if ! command -v "$clang" >/dev/null; then
    echo "tests/fuzz/run.sh: no $clang; install it, or name one in CLANG" >&2
    exit 2
fi
mkdir -p "$build"
status=0
for target in head chunked; do
    "$clang" -std=c17 -g -O1 -Wall -Wextra -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I"$source" -I"$source/../native" \
        "$root/tests/fuzz/fuzz_$target.c" "$source/http1.c" "$source/h1_values.c" "$source/h1_memory.c" \
        "$source/h1_chunked.c" -o "$build/fuzz_$target"
    mkdir -p "$build/$target-corpus"
    log="$build/$target.log"
    echo "$target: fuzzing for $seconds s"
    "$build/fuzz_$target" -max_total_time="$seconds" -max_len=2048 -dict="$root/tests/fuzz/$target.dict" \
        -artifact_prefix="$build/$target-crash-" -print_final_stats=1 \
        "$build/$target-corpus" "$root/tests/fuzz/corpus/$target" >"$log" 2>&1 || status=1
    sed -n 's/^stat::number_of_executed_units: */'"$target"': executions /p' "$log"
    grep -E 'DONE|ERROR|SUMMARY|runtime error|Test unit written' "$log" || true
done
exit $status
