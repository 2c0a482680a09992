# Sourced by the scripts beside it: finds the repository, and makes `.venv` hold what a script needs.
#
#     . "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"
#     ready test               # extras of pyproject.toml, by name
#     exec "$python" ...
#
# Sets `root`, `venv` and `python`; the environment variable PYTHON names the Python to build on. What it
# says goes to stderr. Exit code 2: this machine lacks something, and the last lines say what to do.
# Kept to what bash 3.2 knows, for macOS.
# shellcheck shell=bash

set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
unfinished=$venv/.unfinished # stands there while the environment is being made
stamp=$venv/.installed       # what was installed: fingerprint of the project, then the extras
log=$venv/install.log

say() { printf 'qtasks: %s\n' "$*" >&2; }
stop() { say "$@"; exit 2; }

# Whether $1 can carry us. A name alone does not tell: a version manager's shim may lead nowhere, and a
# Python built without SQLite or TLS would fail much later.
is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1; }
is_capable() { is_recent "$1" && "$1" -c 'import ensurepip, sqlite3, ssl, venv' </dev/null >/dev/null 2>&1; }

# Sets `base` to the Python to build the environment on, or fails.
find_base() {
    if [ -n "${PYTHON:-}" ]; then
        base=$PYTHON
        is_capable "$base" || stop "PYTHON=$base is no Python 3.11 or newer with ensurepip, sqlite3 and ssl."
        return
    fi
    for base in python3.13 python3.12 python3.11 python3 /usr/bin/python3 python3.14; do
        if is_capable "$base"; then return; fi
    done
    return 1
}

# Debian ships Python without what makes environments: get it as root, or say how.
find_base_with_apt() {
    if ! command -v apt-get >/dev/null; then
        stop "Python 3.11 or newer is needed: install it, or name it with PYTHON=/path/to/python3."
    fi
    if [ -x /usr/bin/python3 ] && ! is_recent /usr/bin/python3; then
        stop "$(/usr/bin/python3 --version) is too old, 3.11 or newer is needed: install one," \
            "and name it with PYTHON=/path/to/python3."
    fi
    if [ "$(id -u)" -ne 0 ]; then
        say "the Python module that makes environments is missing. Run this once, then try again:"
        printf '\n    sudo apt-get install -y python3-venv\n\n' >&2
        exit 2
    fi
    say "installing python3-venv with apt-get"
    local said
    if ! said=$(export DEBIAN_FRONTEND=noninteractive && apt-get update 2>&1 </dev/null &&
        apt-get install -y python3-venv 2>&1 </dev/null); then
        printf '%s\n' "$said" | tail -n 15 >&2
        stop "apt-get could not install python3-venv; its last words stand above."
    fi
    find_base || stop "python3-venv is installed, and still no Python 3.11 or newer can make an environment."
}

# Whether `.venv` was made to its end, by a Python that is still there, for this very folder: the scripts
# inside bear its path, so one that was moved or copied is of no use.
venv_is_whole() {
    [ ! -e "$unfinished" ] && is_recent "$python" && "$python" -m pip --version >/dev/null 2>&1 &&
        "$python" -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' &&
        { [ ! -e "$stamp" ] || grep -qxF "in $root" "$stamp"; }
}

make_venv() {
    find_base || find_base_with_apt
    if [ -e "$venv" ] || [ -L "$venv" ]; then
        # Only what is an environment, or was to become one, is ours to remove.
        if [ ! -e "$venv/pyvenv.cfg" ] && [ ! -e "$unfinished" ] && ! rmdir "$venv" 2>/dev/null; then
            stop "$venv is in the way and no Python environment: move it elsewhere."
        fi
        say "the environment in .venv is incomplete or made for another folder: making it anew"
        rm -rf -- "$venv"
    fi
    mkdir -- "$venv"
    : >"$unfinished"
    if ! "$base" -m venv "$venv" >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        stop "$base could not make an environment in $venv; its last words stand above."
    fi
    rm -- "$unfinished"
}

fingerprint() { cksum <"$root/pyproject.toml"; }

# Whether the project as it now stands is installed with the extras $@.
is_installed() {
    [ -e "$stamp" ] && grep -qxF "project $(fingerprint)" "$stamp" || return 1
    local each
    for each in "$@"; do grep -qxF "extra $each" "$stamp" || return 1; done
}

install_extras() {
    # What was once asked for is kept up to date with the rest, or `demo` would leave `check` stale.
    local extras
    extras=$({ printf '%s\n' "$@"; sed -n 's/^extra //p' "$stamp" 2>/dev/null || true; } |
        sort -u | paste -s -d , -)
    say "installing into .venv: qtasks[$extras]"
    rm -f -- "$stamp"
    if ! (cd -- "$root" && PIP_USER=0 "$python" -m pip --disable-pip-version-check --no-input install \
        --progress-bar off --editable ".[$extras]") >"$log" 2>&1 </dev/null; then
        tail -n 12 "$log" >&2
        say "pip could not install what this needs; its last words stand above, all of them in"
        stop "$log. Once that is mended, run the same command again."
    fi
    {
        printf 'project %s\nin %s\n' "$(fingerprint)" "$root"
        printf '%s\n' "$extras" | tr , '\n' | sed 's/^/extra /'
    } >"$stamp.new"
    mv -- "$stamp.new" "$stamp"
}

# Makes `.venv` whole, and installs the project with the extras $@ unless nothing changed since.
ready() {
    unset PYTHONHOME
    # Two scripts started together must not build the same environment; where flock is missing they may.
    exec 9<"$root/pyproject.toml"
    if command -v flock >/dev/null; then flock 9; fi
    venv_is_whole || make_venv
    is_installed "$@" || install_extras "$@"
    exec 9<&-
}
