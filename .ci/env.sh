#!/bin/sh
# Makes .venv with the pinned set. Usage: .ci/env.sh [base|dev|docs]
# What can go wrong is said in one line.
set -u
cd "$(dirname "$0")/.." || exit 1
want=${1:-base}
case $want in
  base) spec='.[faces,notebooks]' ;;
  dev) spec='.[faces,notebooks,gpu,dask,dev]' ;;
  docs) spec='.[faces,notebooks,gpu,dask,dev,docs]' ;;
  *) echo "env.sh: '$want' is not one of base, dev, docs" >&2; exit 2 ;;
esac
die() { echo "mfdan: $1" >&2; exit 1; }

key=$(cat settings.ini setup.py pyproject.toml constraints.txt .ci/env.sh | cksum | cut -d' ' -f1)
for stamp in base dev docs; do  # a fuller environment serves a smaller wish
  [ -f ".venv/.$stamp-$key" ] && have=$stamp || continue
  case "$want $have" in "base base"|"base dev"|"base docs"|"dev dev"|"dev docs"|"docs docs") exit 0 ;; esac
done

python=${PYTHON:-}
for candidate in $python python3 python3.13 python3.12 python3.11; do
  command -v "$candidate" >/dev/null 2>&1 || continue
  "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
    && { python=$candidate; found=1; break; }
done
[ "${found:-0}" = 1 ] || die "needs Python 3.11, 3.12 or 3.13 (found: $(python3 --version 2>&1)); name one with PYTHON=/path/to/python3.12"

[ -x .venv/bin/python ] || "$python" -m venv .venv || die "could not make .venv (is the venv module installed?)"
echo "mfdan: installing the tested set into .venv ($want)"
log=.venv/install.log
install() {
  .venv/bin/python -m pip install --disable-pip-version-check --quiet \
    --constraint constraints.txt --editable "$spec" >"$log" 2>&1
}
if ! install && ! install; then  # an index that answers badly once often answers the next time
  tail -n 5 "$log" >&2
  if grep -qiE 'NewConnectionError|Temporary failure in name resolution|Network is unreachable|Max retries' "$log"; then
    die "no package index answers: is the network up? (full log: $log)"
  elif grep -qiE "command '?(gcc|cc|g\+\+|clang|cmake)|CMake must be installed|no acceptable C compiler" "$log"; then
    die "a package without a wheel for this Python needs a compiler: install gcc/clang, or use Python 3.11 to 3.13 on a common platform (full log: $log)"
  fi
  die "pip could not install the tested set (full log: $log)"
fi
touch ".venv/.$want-$key"
