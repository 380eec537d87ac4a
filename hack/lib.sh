# Shared by the scripts of hack/, which source it from the repository's root under `set -euo pipefail`.

# What Debian has to bring: Python, and what tests of mounts and of simulated devices use.
system_packages=(python3 python3-venv python3-gi fuse3 umockdev gir1.2-umockdev-1.0)

# What tests of real containers use: half a gigabyte, most of it Go, for the CDI library that runtimes are built with.
container_packages=(
    podman runc busybox-static
    golang-go golang-github-container-orchestrated-devices-container-device-interface-dev
)

say() {
    printf '== %s\n' "$*" >&2
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Installs missing Debian packages where that is possible. Elsewhere the tests that need them skip and say so.
install_system_packages() {
    install_missing "${system_packages[@]}"
    install_missing "${container_packages[@]}" # apart: a release without one of them still gets the others
}

install_missing() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        say "not a Debian system: tests that need one of $* may skip"
        return
    fi
    for package in "$@"; do
        [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    if [ ${#missing[@]} -eq 0 ]; then
        return
    fi
    if [ "$(id -u)" -ne 0 ]; then
        say "not root, so these stay missing and tests that need them skip: ${missing[*]}"
        return
    fi
    say "installing ${missing[*]}"
    if ! apt_install "${missing[@]}"; then
        say "apt-get failed: tests that need one of ${missing[*]} may skip"
    fi
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null &&
        DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 install \
            --no-install-recommends "$@" </dev/null >/dev/null
}

# Prints the first interpreter that is new enough.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "needs Python 3.11 or newer as python3 (Debian 12: apt-get install python3 python3-venv)"
}

# pip without its remarks on mirrors and new releases; errors still show.
pip_install() {
    .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check "$@"
}

# Brings .venv to what the lock file and the project files say; does nothing if it is there already. The stamps
# are written last, so that an interrupted installation is done again.
make_environment() {
    local python locked projects
    exec 9<requirements-dev.lock
    flock 9 # two runs in one tree take turns
    python=$(find_python)
    locked=$({ "$python" --version; pwd; cat requirements-dev.lock; } | sha256sum)
    projects=$(cat pyproject.toml hack/sim/pyproject.toml | sha256sum)
    if [ "$(cat .venv/locked 2>/dev/null)" != "$locked" ]; then
        say "installing the locked packages into .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
        pip_install --require-hashes -r requirements-dev.lock
        echo "$locked" >.venv/locked
    fi
    if [ "$(cat .venv/projects 2>/dev/null)" != "$projects" ]; then
        pip_install --no-build-isolation --no-deps -e . -e hack/sim
        echo "$projects" >.venv/projects
    fi
    exec 9<&-
}
