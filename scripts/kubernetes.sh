#!/usr/bin/env bash
# Installs what tests/k8s needs into the cache outside the tree: "quick" is kubectl, the judge of NetworkPolicies and cert-manager's
# resource definitions; "real" adds a control plane (etcd, API server, scheduler, controllers), fake nodes and cert-manager.
# All of it is built from Go modules. Nothing is done where all is there. Usage: kubernetes.sh quick|real
set -euo pipefail

KUBERNETES=1.37.2 KWOK=0.8.0 CERT_MANAGER=1.21.2
. "$(dirname "$0")/toolchain.sh"
sources=$(cd "$(dirname "$0")/../tests/k8s/testbed" && pwd)
level=${1:-real}
[[ $level == quick || $level == real ]] || die "usage: kubernetes.sh quick|real"

parts=(kubectl-$KUBERNETES cert-manager-crds-$CERT_MANAGER "network-policies-$(cat "$sources"/policies/{main.go,go.sum} | sha256sum | cut -c1-12)")
[[ $level == quick ]] || parts+=({etcd,kube-apiserver,kube-scheduler,kube-controller-manager}-$KUBERNETES kwok-$KWOK
  "cert-manager-$(cat "$sources"/certmanager/{main.go,go.sum} | sha256sum | cut -c1-12)")

# Tests on a control plane make network namespaces: iproute2, and curl inside them.
if [[ $level == real ]] && ! { command -v ip && command -v ss && command -v curl; } >/dev/null; then
  if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    say "installing iproute2 and curl"
    { apt-get update && apt-get install -y iproute2 curl; } >/dev/null
  else
    die "iproute2 and curl are needed"
  fi
fi

missing=()
for part in "${parts[@]}"; do done_mark "$part" || missing+=("$part"); done
if [[ ${#missing[@]} -eq 0 ]]; then
  say "$level: all there"
  exit 0
fi

mkdir -p "$cache/k8s" "$bin"
# Two runs at once would build twice: the second waits and then finds all there.
exec 9>"$cache/k8s/lock"
flock 9
have_room 8
go_ready k8s
export CGO_ENABLED=0

from_control_plane() { # name, package
  local flags="-s -w" of
  for of in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $of.gitVersion=v$KUBERNETES -X $of.gitMajor=1 -X $of.gitMinor=37 -X $of.gitTreeState=clean"
  done
  (cd "$sources/controlplane" && go build -trimpath -ldflags="$flags" -o "$bin/$1" "$2")
}

build() {
  case $1 in
    kubectl-* | kube-*) from_control_plane "${1%-"$KUBERNETES"}" "k8s.io/kubernetes/cmd/${1%-"$KUBERNETES"}" ;;
    etcd-*) from_control_plane etcd go.etcd.io/etcd/server/v3 ;;
    network-policies-*) (cd "$sources/policies" && go build -trimpath -ldflags='-s -w' -o "$bin/network-policies" .) ;;
    cert-manager-crds-*)
      local module
      module=$(cd "$sources/certmanager" && go mod download -json "github.com/cert-manager/cert-manager@v$CERT_MANAGER" |
        sed -n 's/^\t"Dir": "\(.*\)",*/\1/p')
      for file in "$module"/deploy/crds/cert-manager.io_*.yaml; do
        cat "$file"
        echo ---
      done >"$cache/k8s/cert-manager-crds.yaml"
      ;;
    cert-manager-*) (cd "$sources/certmanager" && go build -trimpath -ldflags='-s -w' -o "$bin/cert-manager" .) ;;
    kwok-*)
      GOBIN=$GOPATH/bin go install -trimpath -ldflags='-s -w' "sigs.k8s.io/kwok/cmd/kwok@v$KWOK"
      mv "$GOPATH/bin/kwok" "$bin/kwok"
      # What fake nodes do with pods and volumes: they run, are bound and end at once.
      local stages=$GOMODCACHE/sigs.k8s.io/kwok@v$KWOK/kustomize/stage
      { "$bin/kubectl" kustomize "$stages/fast" && echo --- && "$bin/kubectl" kustomize "$stages/volume/fast"; } >"$cache/k8s/kwok-stages.yaml"
      ;;
  esac
}

for part in "${missing[@]}"; do
  done_mark "$part" && continue
  began=$SECONDS
  say "building $part"
  build "$part" 9>&-
  mark "$part"
  say "$part ready after $((SECONDS - began)) s"
done
# Modules and objects of the builds: gigabytes that nobody needs again.
if [[ $level == real ]]; then rm -rf "$cache/build/k8s"; fi
