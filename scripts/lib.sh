# shellcheck shell=bash
# What scripts/test, scripts/bench and .ci/run share. Source it from a script
# that has set `set -euo pipefail`. Everything here may be run again at no cost,
# and needs no terminal.

# Pinned, so that a check means the same on every machine.
declare -A CARGO_TOOL_VERSION=(
    [cbindgen]=0.29.4
    [cargo-deny]=0.20.2
    [cargo-fuzz]=0.13.2
)
# The newest that Python 3.9 (RHEL 9) can install; what they need in turn is
# chosen by pip, because it differs from one Python to the next.
# shellcheck disable=SC2034 # for scripts/test
PYTHON_PACKAGES=(pkilint==0.12.13 jsonschema==4.25.1 crossplane==0.5.8 gixy-ng==0.2.59 websockets==15.0.1)
# By themselves: a hundred packages that nothing else should run with.
# shellcheck disable=SC2034 # for scripts/test
JUPYTER_PACKAGES=(jupyterlab==4.5.11 ipykernel==6.31.0)
# shellcheck disable=SC2034 # for scripts/test
DASK_PACKAGES=(distributed==2024.8.0)
# Where what every user may run is: another Python may be in somebody's home.
SYSTEM_PATH=/usr/local/bin:/usr/bin:/bin

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# Packages whose name is not that of the command they bring.
declare -A DEBIAN_PACKAGE=(
    [apache2]=apache2-bin
    [c++]=g++
    [cc]=gcc
    [certtool]=gnutls-bin
    [chromedriver]=chromium-driver
    [clang++]=clang
    [clang-sanitizers]=libclang-rt-dev
    [ensurepip]=python3-venv
    [fusermount3]=fuse3
    [gcc-asan]=gcc
    [gcc-ubsan]=gcc
    [ip]=iproute2
    [mpicc.openmpi]=libopenmpi-dev
    [mpirun.openmpi]=openmpi-bin
    [munged]=munge
    [nginx]=nginx-light
    [nm]=binutils
    [nsenter]=util-linux
    [pasta]=passt
    [readelf]=binutils
    [sbatch]=slurm-client
    [setfacl]=acl
    [srun]=slurm-client
    [stunnel]=stunnel4
    [setpriv]=util-linux
    [system-ensurepip]=python3-venv
    [unshare]=util-linux
    [useradd]=passwd
    [Xvnc]=tigervnc-standalone-server
)
# Never run by us: there is no RHEL among our machines. ShellCheck, hyperfine,
# chromium, chromedriver, novnc and websockify come from EPEL there.
declare -A FEDORA_PACKAGE=(
    [apache2]=httpd
    [c++]=gcc-c++
    [cc]=gcc
    [certtool]=gnutls-utils
    [clang++]=clang
    [clang-sanitizers]=compiler-rt
    [ensurepip]=python3
    [fusermount3]=fuse3
    [g++]=gcc-c++
    [gcc-asan]=libasan
    [gcc-ubsan]=libubsan
    [ip]=iproute
    [mount]=util-linux
    [mpicc.openmpi]=openmpi-devel
    [mpirun.openmpi]=openmpi
    [munged]=munge
    [nm]=binutils
    [nsenter]=util-linux
    [pasta]=passt
    [pkg-config]=pkgconf-pkg-config
    [readelf]=binutils
    [ruby-ffi]=rubygem-ffi
    [ruby-minitest]=rubygem-minitest
    [sbatch]=slurm
    [setfacl]=acl
    [shellcheck]=ShellCheck
    [setpriv]=util-linux
    [slurmctld]=slurm-slurmctld
    [slurmd]=slurm-slurmd
    [srun]=slurm
    [system-ensurepip]=python3
    [unshare]=util-linux
    [useradd]=shadow-utils
    [websockify]=python3-websockify
    [Xvnc]=tigervnc-server
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

# links COMPILER FLAG…: whether a program can be built that way.
links() {
    printf 'int main(void) { return 0; }\n' | "$@" -x c -o /dev/null - 2>/dev/null
}

# has WHAT: whether a command, by one of its names, or a library that is needed,
# is there.
has() {
    case $1 in
        apache2) has_command apache2 || has_command httpd ;;
        chromium) has_command chromium || has_command chromium-browser ;;
        ensurepip) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
        gcc-asan) links gcc -fsanitize=address ;;
        gcc-ubsan) links gcc -fsanitize=undefined ;;
        clang-sanitizers) links clang -fsanitize=address,undefined ;;
        novnc) [ -f /usr/share/novnc/vnc.html ] ;;
        ruby-ffi) ruby -e 'require "ffi"' 2>/dev/null ;;
        ruby-minitest) ruby -e 'require "minitest"' 2>/dev/null ;;
        system-ensurepip) PATH=$SYSTEM_PATH has ensurepip ;;
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
    rust_is_new_enough || install_rust
}

oldest_rust() {
    sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml"
}

rust_is_new_enough() {
    local version
    version=$(as_builder sh -c 'cargo --version' 2>/dev/null | cut -d' ' -f2)
    [ -n "$version" ] && is_at_least "$version"
}

# is_at_least VERSION: of Rust.
is_at_least() {
    [ "$(printf '%s\n' "$(oldest_rust)" "$1" | sort -V | head -n 1)" = "$(oldest_rust)" ]
}

# candidate_of PACKAGE: the version that apt would install.
candidate_of() {
    local version
    version=$(apt-cache policy "$1" | sed -n 's/^ *Candidate: *//p')
    printf '%s' "${version:-(none)}"
}

# From the system's packages: rustup, or a cargo that is new enough. What brings
# neither is left to whoever runs this.
install_rust() {
    local candidate
    say "Installing Rust"
    if has_command apt-get; then
        as_root apt-get update -qq
        candidate=$(candidate_of cargo)
        if [ "$(candidate_of rustup)" != '(none)' ]; then
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq rustup
            as_builder rustup toolchain install --profile minimal stable
            as_builder rustup default stable
        elif [ "$candidate" != '(none)' ] && is_at_least "$candidate"; then
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq cargo
        fi
    elif has_command dnf; then
        as_root dnf install -y -q cargo
    fi
    rust_is_new_enough ||
        die "there is no Rust $(oldest_rust) or later, and this system's packages bring none" \
            "install it with rustup (https://rustup.rs), as the user who runs this, then run it again"
}

has_cargo_tool() {
    local says
    case $1 in
        cargo-*) says=$(cargo "${1#cargo-}" --version 2>/dev/null) ;;
        *) says=$("$1" --version 2>/dev/null) ;;
    esac
    [ "$says" = "$1 ${CARGO_TOOL_VERSION[$1]}" ]
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

# make_python_venv DIR PACKAGE…: a virtual environment with these packages. Its
# last file records what it was made from, so one that is stale or half made is
# redone.
make_python_venv() {
    local dir=$1 wanted
    shift
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
        die "$(python3 --version) is too old" "put a Python 3.9 or later first in PATH as python3"
    wanted="$(python3 -c 'import sys; print(sys.base_prefix, sys.version)') $*"
    [ "$(cat "$dir/made-from" 2>/dev/null)" = "$wanted" ] && "$dir/bin/python" -c '' && return

    say "Making a Python environment: $*"
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-input "$@"
    printf '%s\n' "$wanted" >"$dir/made-from"
}
