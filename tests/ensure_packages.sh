#!/usr/bin/env bash
# The tests talk to a real redis-server, look at the console in a real browser, and have a real prometheus scrape the
# service. Take those that are here, or install the system's packages.
set -euo pipefail
missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing+=(chromium)
{ command -v prometheus && command -v promtool; } >/dev/null || missing+=(prometheus)
[ ${#missing[@]} -gt 0 ] || exit 0
run=(env)
if [ "$(id -u)" -ne 0 ]; then
  if sudo -n true 2>/dev/null; then run=(sudo -n env); else
    echo "the tests need ${missing[*]}, and this user may not install it; please run: sudo apt-get install ${missing[*]}" >&2
    exit 1
  fi
fi
if ! command -v apt-get >/dev/null; then
  echo "the tests need ${missing[*]}; please install it with this system's package manager" >&2
  exit 1
fi
echo "installing ${missing[*]} for the tests"
# systemd, told that it is offline, and init scripts, told of single-user mode, start no service: the tests start their own.
run+=(DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1 RUNLEVEL=1 apt-get -qq)
"${run[@]}" update
"${run[@]}" install -y --no-install-recommends "${missing[@]}" >/dev/null
