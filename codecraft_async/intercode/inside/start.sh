# Runs a server on a copy of the files beside this script, in the directory $1.
set -eu
here=${0%/*}
rm -rf "$1"
mkdir -p "$1/tmp"
cp -R --sparse=always "$here/data" "$1/data"
exec mariadbd --defaults-file="$here/server.cnf" --datadir="$1/data" --tmpdir="$1/tmp" --socket="$1/socket" \
    --pid-file="$1/pid" </dev/null >/dev/null 2>&1
