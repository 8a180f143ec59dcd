# shellcheck shell=bash
# Finds or installs nats-server, starts it and stops it again. To be sourced after `set -euo pipefail`.
#
#   server=$(ensure_nats_server)            path of a nats-server
#   port=$(free_port 4222)                  4222, or another port if that one is taken
#   start_process LOG COMMAND…              in the background; its id is in $started_pid
#   start_nats 4222 "$dir" --jetstream      sets $nats_url and $nats_pid once the server answers
#   stop_process PID, stop_all              only what start_process started
#
# Sourcing sets traps: whatever was started is stopped when the script ends, is interrupted or terminated.
# A script with more to clean up sets its own EXIT trap and calls stop_all in it.

# Programs that were not in PATH are installed here, once for all checkouts.
tools_dir=${IAM_TOOLS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/iam-svc/bin}

# Ids of what start_process started, in that order.
started=()

trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '%s\n' "$*" >&2; }

# --- nats-server -----------------------------------------------------------------------------------------------------

find_nats_server() {
  type -P nats-server && return
  [[ -x $tools_dir/nats-server ]] && printf '%s\n' "$tools_dir/nats-server"
}

# ensure_nats_server: prints the path of a nats-server, which it installs into $tools_dir if there is none.
ensure_nats_server() {
  find_nats_server && return
  local scratch
  mkdir -p "$tools_dir" && scratch=$(mktemp -d "$tools_dir/.install.XXXXXX") || return 1
  if nats_server_by_go "$scratch" || nats_server_by_apt "$scratch"; then
    # A rename, so that another run that installs at the same time never sees half a file.
    mv -f "$scratch/nats-server" "$tools_dir/nats-server"
  fi
  rm -rf "$scratch"
  find_nats_server && return
  say "no nats-server in PATH or $tools_dir, and neither Go nor Debian's package could provide one"
  return 1
}

nats_server_by_go() {
  type -P go >/dev/null || return 1
  say "installing nats-server into $tools_dir with Go (a minute or so)"
  GOBIN=$1 go install github.com/nats-io/nats-server/v2@latest >&2
}

# Unpacks Debian's package without installing it: needs no root, and starts no service of the system.
nats_server_by_apt() {
  type -P apt-get >/dev/null && type -P dpkg >/dev/null || return 1
  say "unpacking Debian's nats-server into $tools_dir"
  (
    cd "$1" || exit 1
    # The machine's own package lists may be missing or stale. Then fetch some of our own, beside.
    mkdir -p lists/partial cache/archives/partial
    own_lists=(-o "Dir::State::Lists=$1/lists" -o "Dir::Cache=$1/cache" -o APT::Sandbox::User=)
    apt-get -q download nats-server ||
      { apt-get -q "${own_lists[@]}" update && apt-get -q "${own_lists[@]}" download nats-server; } ||
      exit 1
    dpkg -x nats-server_*.deb unpacked && mv unpacked/usr/sbin/nats-server .
  ) >&2
}

# start_nats PORT DIR [--jetstream]: starts a server on 127.0.0.1 at PORT, or elsewhere if PORT is taken. Its log, and
# with --jetstream its store, lie in DIR. Returns once it answers. Not in a subshell: sets $nats_url and $nats_pid.
start_nats() {
  local port=$1 dir=$2 jetstream=${3:-} server name
  server=$(ensure_nats_server) || return 1
  mkdir -p "$dir"
  for _ in 1 2 3; do
    port=$(free_port "$port")
    name=iam-$$-$port
    local command=("$server" --addr 127.0.0.1 --port "$port" --name "$name")
    if [[ $jetstream == --jetstream ]]; then command+=(--jetstream --store_dir "$dir"); fi
    start_process "$dir/nats.log" "${command[@]}"
    nats_pid=$started_pid
    for _ in {1..150}; do
      if nats_answers "$port" "$name"; then
        # shellcheck disable=SC2034 # for the script that sources this
        nats_url=nats://127.0.0.1:$port
        return 0
      fi
      is_running "$nats_pid" || break
      sleep 0.1
    done
    stop_process "$nats_pid"
    # Try again only if somebody else took the port between our look and the server's.
    port_taken "$port" || break
  done
  say "nats-server did not start:"
  tail -n 20 "$dir/nats.log" >&2
  return 1
}

# nats_answers PORT NAME: is it the server of that name that greets at the port?
nats_answers() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
    read -r -t 2 greeting <&3
    [[ $greeting == INFO*"\"server_name\":\"$2\""* ]]
  ) 2>/dev/null
}

# --- ports and processes ---------------------------------------------------------------------------------------------

# free_port [PREFERRED]: prints PREFERRED if nothing listens there on 127.0.0.1, else a random port where nothing does.
free_port() {
  local port=${1:-$((20000 + RANDOM % 12000))}
  while port_taken "$port"; do port=$((20000 + RANDOM % 12000)); done
  printf '%s\n' "$port"
}

port_taken() { (: <>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# start_process LOG COMMAND…: in the background and in its own process group, so that Ctrl-C reaches the script alone
# and everything stops in the right order. Not in a subshell: sets $started_pid.
start_process() {
  local log=$1
  shift
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  set +m
  started_pid=$!
  started+=("$started_pid")
}

# is_running PID: is it a child of this shell that still runs? Never true of an id that was given to somebody else.
is_running() {
  local pid
  for pid in $(jobs -pr); do
    if [[ $pid == "$1" ]]; then return 0; fi
  done
  return 1
}

# stop_process PID: asks, waits 15 s (iam-svc drains for up to 10), then insists.
stop_process() {
  local signal tries
  for signal in TERM KILL; do
    is_running "$1" || break
    if [[ $signal == KILL ]]; then say "process $1 did not stop when asked, killing it"; fi
    kill -s "$signal" "$1" 2>/dev/null || true
    for ((tries = 0; tries < 150; tries++)); do
      is_running "$1" || break
      sleep 0.1
    done
  done
  wait "$1" 2>/dev/null || true
}

# stop_all: the last one started first.
stop_all() {
  local i
  for ((i = ${#started[@]} - 1; i >= 0; i--)); do stop_process "${started[i]}"; done
  started=()
}
