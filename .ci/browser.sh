#!/bin/sh
# Makes sure of a Chromium for tests/test_browser.py where it may install one; says why not elsewhere.
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null 2>&1 && exit 0
done
none() { echo "mfdan: no Chromium, so the browser tests are skipped: $1"; exit 0; }
command -v apt-get >/dev/null 2>&1 || none "install it; this script knows Debian's apt-get alone"
[ "$(id -u)" = 0 ] || none "sudo apt-get install chromium"
log=$(mktemp)
echo "mfdan: installing Chromium for the browser tests"
apt-get update -qq >"$log" 2>&1 \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium \
    >>"$log" 2>&1 || none "apt-get could not install it: $(tail -n 1 "$log")"
