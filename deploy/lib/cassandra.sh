# shellcheck shell=bash
# Brings up Cassandra, one node or several, and stops it again. To be sourced after lib/nats.sh, whose processes,
# ports and traps it uses.
#
#   ensure_cassandra                   nothing printed; fails if there is no way to get one
#   configure_cassandra "$dir" 3       chooses ports, writes the files of three nodes, and sets $cassandra_hosts
#   start_cassandra "$dir" 3           does that too, and starts them; returns once they take clients
#   cassandra_command "$dir" 2         sets $cassandra_command, which runs the second node in the foreground
#
# It runs in a container if docker or podman answers and can run the image; else it takes a JDK (11 or 17) and Maven, and
# the jars come from the registry, once for all checkouts. IAM_CASSANDRA_BY=maven or =container insists on one of them.
# Nodes listen on 127.0.0.1, 127.0.0.2 and so on, at ports that were free.

# shellcheck disable=SC2154 # tools_dir and started_pid are set by lib/nats.sh

cassandra_version=5.0.4
cassandra_jars=${tools_dir%/bin}/cassandra-$cassandra_version
cassandra_image=docker.io/library/cassandra:$cassandra_version
# docker or podman, where that runs the nodes.
cassandra_engine=

ensure_cassandra() {
  case ${IAM_CASSANDRA_BY:-} in
    maven) ensure_cassandra_jars ;;
    container) find_cassandra_engine || { say "neither docker nor podman can run $cassandra_image"; return 1; } ;;
    *) find_cassandra_engine || ensure_cassandra_jars ;;
  esac
}

# Sets $cassandra_engine to one that answers, has the image or can fetch it, and can run it.
find_cassandra_engine() {
  local engine
  for engine in docker podman; do
    type -P "$engine" >/dev/null && "$engine" info >/dev/null 2>&1 || continue
    say "trying $cassandra_image with $engine"
    "$engine" image inspect "$cassandra_image" >/dev/null 2>&1 || "$engine" pull -q "$cassandra_image" >&2 || continue
    [[ $("$engine" run --rm --network host --entrypoint cassandra "$cassandra_image" -v) == *"$cassandra_version"* ]] ||
      continue
    cassandra_engine=$engine
    return
  done
  return 1
}

ensure_cassandra_jars() {
  [[ -d $cassandra_jars ]] && return
  if ! type -P java >/dev/null || ! type -P mvn >/dev/null; then
    say "Cassandra takes a JDK (11 or 17) and Maven here: apt-get install default-jdk-headless maven"
    return 1
  fi
  say "fetching Cassandra $cassandra_version into $cassandra_jars with Maven (a minute or so)"
  local scratch
  mkdir -p "${cassandra_jars%/*}" && scratch=$(mktemp -d "${cassandra_jars%/*}/.install.XXXXXX") || return 1
  cat >"$scratch/pom.xml" <<END
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>iam</groupId><artifactId>cassandra-node</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>$cassandra_version</version>
    </dependency>
  </dependencies>
</project>
END
  if (cd "$scratch" && mvn -q -B dependency:copy-dependencies -DoutputDirectory=jars) >&2; then
    mv "$scratch/jars" "$cassandra_jars" 2>/dev/null || true
  fi
  rm -rf "$scratch"
  [[ -d $cassandra_jars ]] || { say "Maven could not fetch Cassandra"; return 1; }
}

configure_cassandra() {
  local dir=$1 nodes=${2:-1} node hosts=()
  cassandra_port=$(free_port 9042)
  cassandra_storage_port=$(free_port 7000)
  for ((node = 1; node <= nodes; node++)); do
    configure_cassandra_node "$dir" "$node"
    hosts+=("127.0.0.$node:$cassandra_port")
  done
  # shellcheck disable=SC2034 # for the script that sources this
  cassandra_hosts=$(IFS=, && printf '%s' "${hosts[*]}")
}

# Not in a subshell. Data and logs lie in the directory.
start_cassandra() {
  local dir=$1 nodes=${2:-1} node
  ensure_cassandra || return 1
  configure_cassandra "$dir" "$nodes"
  # One after the other: two that join at once can take the same tokens.
  for ((node = 1; node <= nodes; node++)); do start_cassandra_node "$dir" "$node" || return 1; done
}

configure_cassandra_node() {
  local dir=$1/node$2 host=127.0.0.$2
  mkdir -p "$dir"
  cat >"$dir/cassandra.yaml" <<END
cluster_name: iam
num_tokens: 4
allocate_tokens_for_local_replication_factor: 3
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "127.0.0.1:$cassandra_storage_port"
listen_address: $host
rpc_address: $host
storage_port: $cassandra_storage_port
native_transport_port: $cassandra_port
start_native_transport: true
commitlog_sync: periodic
commitlog_sync_period: 1s
commitlog_directory: $dir/commitlog
data_file_directories: [$dir/data]
hints_directory: $dir/hints
saved_caches_directory: $dir/saved_caches
cdc_raw_directory: $dir/cdc
concurrent_reads: 8
concurrent_writes: 8
authenticator: AllowAllAuthenticator
authorizer: AllowAllAuthorizer
disk_optimization_strategy: ssd
auto_snapshot: false
END
  cat >"$dir/logback.xml" <<END
<configuration>
  <appender name="file" class="ch.qos.logback.core.FileAppender">
    <file>$dir/system.log</file>
    <encoder><pattern>%-5level %date{ISO8601} %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="file"/></root>
</configuration>
END
}

# What Cassandra reaches into the JDK for: it does not start without.
cassandra_exports=(
  java.base/jdk.internal.misc java.base/jdk.internal.ref java.base/sun.nio.ch
  java.management.rmi/com.sun.jmx.remote.internal.rmi java.rmi/sun.rmi.registry java.rmi/sun.rmi.server
  java.sql/java.sql java.rmi/sun.rmi.transport.tcp jdk.unsupported/sun.misc
)
cassandra_opens=(
  java.base/java.io java.base/java.lang java.base/java.lang.module java.base/java.nio java.base/java.util
  java.base/java.util.concurrent java.base/java.util.concurrent.atomic java.base/jdk.internal.loader
  java.base/jdk.internal.math java.base/jdk.internal.module java.base/jdk.internal.ref java.base/jdk.internal.reflect
  java.base/jdk.internal.util.jar java.base/sun.nio.ch java.base/sun.security.x509
  jdk.compiler/com.sun.tools.javac jdk.management/com.sun.management.internal
)

cassandra_command() {
  local dir=$1/node$2 agents module options=()
  if [[ $cassandra_engine ]]; then
    # Files in the directory are to be ours; podman maps us to root without this.
    options=(--user "$(id -u):$(id -g)")
    if [[ $cassandra_engine == podman ]]; then options+=(--userns keep-id); fi
    cassandra_command=(
      "$cassandra_engine" run --rm --network host "${options[@]}" --volume "$dir:$dir" --env CASSANDRA_LOG_DIR="$dir"
      --env MAX_HEAP_SIZE="${IAM_CASSANDRA_HEAP:-1G}" --env HEAP_NEWSIZE=200M --entrypoint cassandra "$cassandra_image"
      -f -R -Dcassandra.config="file://$dir/cassandra.yaml" -Dlogback.configurationFile="$dir/logback.xml"
      -Dcassandra.storagedir="$dir" -Dcassandra.ring_delay_ms=2000 -Dcassandra.skip_wait_for_gossip_to_settle=0
      -Dcassandra.superuser_setup_delay_ms=0 -Djava.net.preferIPv4Stack=true
    )
    return
  fi
  agents=("$cassandra_jars"/jamm-*.jar)
  for module in "${cassandra_exports[@]}"; do options+=(--add-exports "$module=ALL-UNNAMED"); done
  for module in "${cassandra_opens[@]}"; do options+=(--add-opens "$module=ALL-UNNAMED"); done
  cassandra_command=(
    java -Xms256M -Xmx"${IAM_CASSANDRA_HEAP:-1G}" -XX:+UseG1GC -Xss512k "${options[@]}" -javaagent:"${agents[0]}"
    -Djdk.attach.allowAttachSelf=true -Djava.net.preferIPv4Stack=true -Dcassandra.config="file://$dir/cassandra.yaml"
    -Dlogback.configurationFile="$dir/logback.xml" -Dcassandra.storagedir="$dir" -Dcassandra-foreground=yes
    -Dcassandra.ring_delay_ms=2000 -Dcassandra.skip_wait_for_gossip_to_settle=0
    -Dcassandra.superuser_setup_delay_ms=0 -cp "$dir:$cassandra_jars/*"
    org.apache.cassandra.service.CassandraDaemon
  )
}

start_cassandra_node() {
  local dir=$1/node$2 tries
  cassandra_command "$1" "$2"
  start_process "$dir/out.log" "${cassandra_command[@]}"
  local pid=$started_pid
  for ((tries = 0; tries < 1800; tries++)); do
    if (: <>"/dev/tcp/127.0.0.$2/$cassandra_port") 2>/dev/null; then return 0; fi
    is_running "$pid" || break
    sleep 0.1
  done
  say "Cassandra did not start on 127.0.0.$2:"
  tail -n 20 "$dir/system.log" "$dir/out.log" >&2
  return 1
}
