#!/usr/bin/env bash
# The history tests talk to a real redis-server. Take the one that is here, or install the system's package.
set -euo pipefail
command -v redis-server >/dev/null && exit 0
run=(env)
if [ "$(id -u)" -ne 0 ]; then
  if sudo -n true 2>/dev/null; then run=(sudo -n env); else
    echo "the tests need redis-server, and this user may not install it; please run: sudo apt-get install redis-server" >&2
    exit 1
  fi
fi
if ! command -v apt-get >/dev/null; then
  echo "the tests need redis-server; please install it with this system's package manager" >&2
  exit 1
fi
echo "installing redis-server for the tests"
run+=(DEBIAN_FRONTEND=noninteractive apt-get -qq)
"${run[@]}" update
"${run[@]}" install -y --no-install-recommends redis-server >/dev/null
