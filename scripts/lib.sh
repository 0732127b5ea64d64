# shellcheck shell=bash
# What scripts/test, scripts/bench and .ci/run share. Source it from a script
# that has set `set -euo pipefail`. Everything here may be run again at no cost,
# and needs no terminal.

# Pinned, so that a check means the same on every machine.
declare -A CARGO_TOOL_VERSION=(
    [cargo-deny]=0.20.2
    [cargo-fuzz]=0.13.2
)
# The newest that Python 3.9 (RHEL 9) can install; what they need in turn is
# chosen by pip, because it differs from one Python to the next.
PYTHON_PACKAGES=(pkilint==0.12.13 jsonschema==4.25.1 crossplane==0.5.8 gixy-ng==0.2.59 websockets==15.0.1)

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# Packages whose name is not that of the command they bring.
declare -A DEBIAN_PACKAGE=(
    [apache2]=apache2-bin
    [c++]=g++
    [cc]=gcc
    [certtool]=gnutls-bin
    [ensurepip]=python3-venv
    [fusermount3]=fuse3
    [ip]=iproute2
    [nginx]=nginx-light
    [nsenter]=util-linux
    [pasta]=passt
    [setfacl]=acl
    [stunnel]=stunnel4
    [setpriv]=util-linux
    [useradd]=passwd
)
# Never run by us: there is no RHEL among our machines. ShellCheck and hyperfine
# come from EPEL there.
declare -A FEDORA_PACKAGE=(
    [apache2]=httpd
    [c++]=gcc-c++
    [cc]=gcc
    [certtool]=gnutls-utils
    [ensurepip]=python3
    [fusermount3]=fuse3
    [ip]=iproute
    [mount]=util-linux
    [nsenter]=util-linux
    [pasta]=passt
    [setfacl]=acl
    [shellcheck]=ShellCheck
    [setpriv]=util-linux
    [useradd]=shadow-utils
)

say() {
    printf '\n== %s\n' "$*"
}

# die MESSAGE HINT
die() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

# as_root COMMAND…: runs it as root, or says that this needs root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
        sudo "$@"
    else
        die "this needs root" "as root, run: $*"
    fi
}

has_command() {
    # Some programs of the system are outside a user's PATH.
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null
}

# has WHAT: whether a command, or Python's ensurepip, is there.
has() {
    case $1 in
        ensurepip) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
        *) has_command "$1" ;;
    esac
}

missing_of() {
    local what
    for what in "$@"; do
        has "$what" || printf '%s\n' "$what"
    done
}

# install_packages COMMAND…: installs the packages of those commands that are
# not there yet.
install_packages() {
    local missing what packages=()
    mapfile -t missing < <(missing_of "$@")
    [ ${#missing[@]} -gt 0 ] || return 0

    say "Installing what is missing: ${missing[*]}"
    if has_command apt-get; then
        for what in "${missing[@]}"; do
            packages+=("${DEBIAN_PACKAGE[$what]:-$what}")
        done
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "${packages[@]}"
    elif has_command dnf; then
        for what in "${missing[@]}"; do
            packages+=("${FEDORA_PACKAGE[$what]:-$what}")
        done
        as_root dnf install -y -q "${packages[@]}"
    else
        die "not installed: ${missing[*]} (and there is neither apt-get nor dnf)" \
            "install them with this system's own package manager, then run this again"
    fi

    mapfile -t missing < <(missing_of "$@")
    [ ${#missing[@]} -eq 0 ] ||
        die "still missing after the installation: ${missing[*]}" \
            "the packages were ${packages[*]}; install what brings these commands by hand"
}

# Who called sudo, if somebody did: theirs are the toolchain and the target
# directory.
builder() {
    [ "$(id -u)" -ne 0 ] || [ "${SUDO_USER:-root}" = root ] || printf '%s' "$SUDO_USER"
}

# as_builder COMMAND…: as the user who called sudo, or as who runs this.
as_builder() {
    local user
    user=$(builder)
    if [ -n "$user" ]; then
        sudo -u "$user" -H env "PATH=$PATH" "$@"
    else
        "$@"
    fi
}

require_rust() {
    local user home=$HOME
    user=$(builder)
    [ -z "$user" ] || home=$(getent passwd "$user" | cut -d: -f6)
    if [ -x "$home/.cargo/bin/cargo" ]; then
        PATH=$home/.cargo/bin:$PATH
    fi
    as_builder sh -c 'command -v cargo' >/dev/null ||
        die "there is no Rust toolchain" "install one with rustup, as the user who runs this, then run it again"
}

has_cargo_tool() {
    [ "$(cargo "${1#cargo-}" --version 2>/dev/null)" = "$1 ${CARGO_TOOL_VERSION[$1]}" ]
}

# install_cargo_tool NAME: installs the pinned version, unless it is there.
install_cargo_tool() {
    local name=$1 version=${CARGO_TOOL_VERSION[$1]}
    has_cargo_tool "$name" && return
    say "Installing $name $version (once, a few minutes)"
    cargo install --quiet --locked --force --version "$version" "$name"
    has_cargo_tool "$name" ||
        die "cargo does not find the $name $version that was just installed" \
            "put the bin directory of cargo (\$HOME/.cargo/bin) first in PATH"
}

# The directory that cargo builds into, whatever decides it.
target_dir() {
    as_builder cargo metadata --no-deps --format-version 1 --manifest-path "$ROOT/Cargo.toml" |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

# make_python_venv DIR: a virtual environment with PYTHON_PACKAGES. Its last
# file records what it was made from, so one that is stale or half made is redone.
make_python_venv() {
    local dir=$1 wanted
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
        die "$(python3 --version) is too old" "put a Python 3.9 or later first in PATH as python3"
    wanted="$(python3 -c 'import sys; print(sys.base_prefix, sys.version)') ${PYTHON_PACKAGES[*]}"
    [ "$(cat "$dir/made-from" 2>/dev/null)" = "$wanted" ] && "$dir/bin/python" -c '' && return

    say "Making a Python environment: ${PYTHON_PACKAGES[*]}"
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        "${PYTHON_PACKAGES[@]}"
    printf '%s\n' "$wanted" >"$dir/made-from"
}
