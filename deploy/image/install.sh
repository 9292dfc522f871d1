#!/bin/sh
# Installs ragkeep with the extras given into a new environment, from the pinned and hashed requirements and nothing else.
# Run by the Dockerfile, and by a test without one. Usage: install.sh TARGET EXTRAS
set -eu
target=$1 extras=$2
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
dist=$(mktemp -d)
trap 'rm -rf "$dist"' EXIT

"$PYTHON" -m venv "$dist/build"
"$dist/build/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --only-binary :all: \
  --require-hashes --requirement deploy/image/build-requirements.txt
# Without pip: nothing is installed into the image later.
"$PYTHON" -m venv --without-pip "$target"
"$dist/build/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$dist" .
wheel=$(ls "$dist"/ragkeep-*.whl)
# uv takes no dependency whose hash requirements.txt does not hold; the extras choose among them.
sum=$("$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$wheel")
printf 'ragkeep[%s] @ file://%s --hash=sha256:%s\n' "$extras" "$wheel" "$sum" >"$dist/requirements.txt"
"$dist/build/bin/uv" pip install --quiet --no-cache --no-build --python "$target/bin/python" --compile-bytecode \
  --require-hashes --constraint requirements.txt --requirement "$dist/requirements.txt"
