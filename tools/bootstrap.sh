#!/usr/bin/env bash
# Set up a virtual environment with pyserve in it, installed from this checkout:
#
#     tools/bootstrap.sh VENV PYTHON
#     tools/bootstrap.sh --test-tools      Debian's programs that some tests use
#     tools/bootstrap.sh --app-tools       those that make apps uses
#
# What the system lacks is installed with apt-get by root, and named with its package for anyone else.
set -euo pipefail
cd "$(dirname "$0")/.."

main() {
    if [ "${1-}" = --test-tools ]; then
        need_test_tools
        return
    fi
    if [ "${1-}" = --app-tools ]; then
        need_app_tools
        return
    fi
    local venv=$1 python=$2
    [ -n "$python" ] || die "pyserve needs Python 3.11 or later, and none is on the PATH (Debian: python3)"
    need_to_build "$python"
    if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        say "making $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    say "building the native modules and installing pyserve into $venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check 'setuptools >= 77' 'cython >= 3.1'
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation -e .
    # Two folders are found without the finder that each interpreter of the environment would import: it takes as long
    # to start as Python itself.
    printf '%s\n' "$PWD/server" "$PWD/workers" >"$(echo "$venv"/lib/python3.*/site-packages/__editable__.pyserve-*.pth)"
}

say() { echo "pyserve: $*"; }

die() {
    echo "pyserve: $*" >&2
    exit 1
}

# A compiler, Python's headers, and the module that makes virtual environments.
need_to_build() {
    local python=$1 version missing=()
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("python$version-venv")
    [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=("python$version-dev")
    [ ${#missing[@]} -eq 0 ] || install "${missing[@]}" || die "needed to build, and missing: ${missing[*]} (Debian packages)"
}

# Without them the tests that use them are skipped.
need_test_tools() {
    local missing=()
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
    command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
    [ -x /lib/systemd/systemd ] || missing+=(systemd)
    command -v slowhttptest >/dev/null || missing+=(slowhttptest)
    wanted "${missing[@]}"
}

# Clients that are not on PyPI, for tests/apps.
need_app_tools() {
    local missing=()
    command -v git >/dev/null || missing+=(git)
    command -v litmus >/dev/null || missing+=(litmus)
    wanted "${missing[@]}"
}

wanted() {
    [ $# -eq 0 ] || install "$@" || say "some tests will be skipped, for they need: $* (Debian packages)"
}

# Install Debian packages; fails if that is not ours to do.
install() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
    say "installing $*"
    # Installing a server starts it. Nobody asked for that.
    local policy=/usr/sbin/policy-rc.d made=no done=no
    if [ ! -e $policy ]; then
        made=yes
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod +x $policy
    fi
    local get=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
    if "${get[@]}" update >/dev/null && "${get[@]}" install -y --no-install-recommends "$@" </dev/null >/dev/null; then
        done=yes
    fi
    [ $made = no ] || rm -f $policy
    [ $done = yes ]
}

main "$@"
