#!/usr/bin/env bash
# The whole system in half a minute: up, import, three questions, down. Fails where an answer misses its ticket.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
export RAGKEEP_DATA=${RAGKEEP_DATA:-$PWD/.demo}
ragkeep() { "$bin/ragkeep" "$@"; }
bold='' plain=''
# Only a terminal knows what to do with them.
if [[ -t 1 ]]; then bold=$'\033[1m' plain=$'\033[0m'; fi
step() { printf '\n%s$ ragkeep %s%s\n' "$bold" "$*" "$plain"; }
out=$(mktemp -d)
began=$SECONDS

stop() {
  local status=$?
  ragkeep down >/dev/null 2>&1 || true
  rm -rf "$out"
  exit "$status"
}
trap stop EXIT INT TERM

# Ports of its own, so that a demo never meets a running installation.
step up --detach
ragkeep up --detach --ports "${DEMO_PORTS:-50161}" --health-ports "${DEMO_HEALTH_PORTS:-9261}"

step import examples/service_tickets.csv
ragkeep import examples/service_tickets.csv

ask() { # question, what the output must show, what that is
  step ask "\"$1\""
  ragkeep ask "$1" | tee "$out/answer"
  grep -q -- "$2" "$out/answer" || {
    echo "The demo failed: the answer does not show $3 ($2)." >&2
    exit 1
  }
}
ask "忘记域密码了，密码也过期了，怎么重置？" "T-1001" "the right ticket among its sources"
ask "My VPN fails with error 809 since the Windows update, what can I do?" "T-1042" "the right ticket among its sources"
ask "How do I bake a chocolate cake for eight people?" "not in the documents" "an honest no"

step down
ragkeep down
trap - EXIT
rm -rf "$out"
echo
echo "The demo took $((SECONDS - began)) s. Nothing is left running; its data is in .demo."
