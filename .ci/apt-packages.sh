#!/usr/bin/env bash
# Debian packages that some tests use. Nothing else needs them: `make setup`, `make demo` and `make test` run
# without root; a test that misses its program is skipped and says so.
#
#   iproute2   network namespaces and veth pairs: tests marked `root` (several hosts on one machine)
#   nginx      the HTTPS server that the benchmarks compare with, run as a plain process on loopback
#   curl       its client
#
# Usage, as root: .ci/apt-packages.sh
set -euo pipefail

packages=(iproute2 nginx curl)

missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
    echo "apt-packages: all there: ${packages[*]}"
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
export RUNLEVEL=1   # packages that bring a service must not start it
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
