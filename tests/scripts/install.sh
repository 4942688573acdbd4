#!/bin/bash
# Installs what the integration tests and the demo need: the stock registry, the real clients and a browser from Debian packages,
# and a virtual environment with python-dxf. It may be run any number of times; it does nothing where nothing is missing, and leaves no
# service running that it did not find running.
#
#   tests/scripts/install.sh          everything
#   tests/scripts/install.sh --demo   only what the demo needs
set -euo pipefail

readonly DEMO_TOOLS=(docker-registry:docker-registry skopeo:skopeo openssl:openssl curl:curl htpasswd:apache2-utils)
readonly TEST_TOOLS=(podman:podman buildah:buildah dockerd:docker.io docker:docker.io containerd:containerd ctr:containerd
  runc:runc umoci:umoci ip:iproute2 jq:jq nghttp:nghttp2-client nsenter:util-linux mount:mount setpriv:util-linux
  chromium:chromium chromedriver:chromium-driver certutil:libnss3-tools)
readonly DXF_VERSION=12.1.1
readonly POLICY=/usr/sbin/policy-rc.d
# The units of these packages; apt would start them, the tests start their own.
readonly UNITS=(docker.service docker.socket containerd.service docker-registry.service podman.service podman.socket
  podman-restart.service podman-auto-update.timer)

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install.sh: run it as root, or install sudo" >&2; exit 1; }
  as_root=(sudo)
fi

say() { printf 'install: %s\n' "$*"; }

# Debian keeps daemons and network tools in sbin, which a user's PATH may lack.
has() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

missing_packages() {
  local pair
  for pair in "$@"; do
    has "${pair%%:*}" || echo "${pair##*:}"
  done | sort -u
}

policy_is_ours=no
remove_policy() {
  if [ "$policy_is_ours" = yes ]; then
    "${as_root[@]}" rm -f "$POLICY"
  fi
}
trap remove_policy EXIT

# With this file in place the packages' scripts start nothing (invoke-rc.d(8)).
forbid_service_start() {
  [ -e "$POLICY" ] && return
  policy_is_ours=yes
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$POLICY" >/dev/null
  "${as_root[@]}" chmod 755 "$POLICY"
}

known_units() {
  local unit
  for unit in "${UNITS[@]}"; do
    if systemctl cat "$unit" >/dev/null 2>&1; then echo "$unit"; fi
  done
}

install_packages() {
  local packages before="" unit
  mapfile -t packages < <(missing_packages "$@")
  if [ "${#packages[@]}" -eq 0 ]; then
    say "all packages are there"
    return
  fi
  command -v apt-get >/dev/null || { echo "install.sh: no apt-get here; install by hand: ${packages[*]}" >&2; exit 1; }
  say "installing ${packages[*]}"
  [ -d /run/systemd/system ] && before=" $(known_units | tr '\n' ' ')"
  forbid_service_start
  "${as_root[@]}" apt-get -q update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install "${packages[@]}"
  [ -d /run/systemd/system ] || return 0
  # Units that came with these packages are enabled for the next boot; nobody asked for them.
  while read -r unit; do
    case "$before" in *" $unit "*) continue ;; esac
    "${as_root[@]}" systemctl disable --now "$unit" >/dev/null 2>&1 || true
  done < <(known_units)
}

install_dxf() {
  local root venv
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  venv="${CARGO_TARGET_DIR:-$root/target}/test-tools/venv"
  if "$venv/bin/python" -c "import dxf" >/dev/null 2>&1; then
    say "python-dxf is there"
    return
  fi
  if ! python3 -c "import ensurepip, venv" >/dev/null 2>&1; then
    install_packages no-such-tool:python3-venv
  fi
  say "installing python-dxf $DXF_VERSION"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "python-dxf==$DXF_VERSION"
}

case "${1:-}" in
  --demo) install_packages "${DEMO_TOOLS[@]}" ;;
  "")
    install_packages "${DEMO_TOOLS[@]}" "${TEST_TOOLS[@]}"
    install_dxf
    ;;
  *) echo "usage: install.sh [--demo]" >&2; exit 2 ;;
esac
say "ready"
