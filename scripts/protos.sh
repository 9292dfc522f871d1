#!/usr/bin/env bash
# Regenerates the stubs beside the protos. With --check: fails when those checked in differ from what would be generated.
set -euo pipefail
cd "$(dirname "$0")/.."
out=protos
if [[ ${1:-} == --check ]]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
bin=${BIN:-.venv/bin}
mapfile -t files < <(cd protos && find ragkeep -name '*.proto' | sort)
"$bin/python" -m grpc_tools.protoc -Iprotos \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out" "${files[@]}"
# Messages without a service need no gRPC stub.
for file in "${files[@]}"; do
  grep -q '^service ' "protos/$file" || rm -f "$out/${file%.proto}_pb2_grpc.py" "$out/${file%.proto}_pb2_grpc.pyi"
done
touch "$out/ragkeep/py.typed"
if [[ $out != protos ]]; then
  diff -r --exclude='*.proto' --exclude=buf.yaml --exclude=__pycache__ protos "$out" >/dev/null || {
    diff -rq --exclude='*.proto' --exclude=buf.yaml --exclude=__pycache__ protos "$out" || true
    echo "The stubs differ from the protos: run 'make protos' and commit what changes." >&2
    exit 1
  }
fi
