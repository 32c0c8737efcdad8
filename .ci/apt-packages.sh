#!/usr/bin/env bash
# Debian packages that some tests use. Nothing else needs them: `make setup`, `make demo` and `make
# test` run without root; a test that misses its program is skipped and says so.
#
#   iproute2   several hosts on one machine: network namespaces, veth pairs, shaped links
#   nginx      the HTTPS server that the benchmarks compare with, a plain process on loopback
#   curl       its client
#   openssl    reads the key files that we write
#   e2fsprogs  ext4 and XFS in a file, mounted and cut off: what is left after a power cut
#   xfsprogs
#
# Usage, as root: .ci/apt-packages.sh
set -euo pipefail

packages=(iproute2 nginx curl openssl e2fsprogs xfsprogs)

is_installed() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'
}

missing=()
for package in "${packages[@]}"; do
    is_installed "$package" || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
    echo "apt-packages: all there: ${packages[*]}"
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
export RUNLEVEL=1   # packages that bring a service must not start it
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
