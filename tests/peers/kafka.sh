#!/usr/bin/env bash
# Apache Kafka 4.3.1 as a peer: one broker and controller on loopback, run from the jars that pom.xml names.
#
#   kafka.sh install               fetch the jars with Maven
#   kafka.sh start [key=value...]  a fresh broker; settings beyond ours go into its server.properties
#   kafka.sh tiered [key=value...] the same with tiered storage in a local directory
#   kafka.sh stop | kill           end it with SIGTERM | SIGKILL; its data stays until the next start
#   kafka.sh pid                   print its process id
#   kafka.sh tool CLASS ARGS...    run a class of the jars, such as org.apache.kafka.tools.TopicCommand
#
# KAFKA_PORT (default 19092; the controller takes the next one), KAFKA_DATA, KAFKA_HEAP and ALLUVIUM_CACHE are read.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${ALLUVIUM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/alluvium}
jars=$cache/kafka-4.3.1
port=${KAFKA_PORT:-19092}
data=$(realpath -m "${KAFKA_DATA:-${TMPDIR:-/tmp}/alluvium-peer-kafka}")
read -r -a heap <<< "${KAFKA_HEAP:--Xms512m -Xmx1g}"

install() {
  [[ -f $jars/.complete ]] && return
  mvn --quiet --batch-mode -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$jars"
  touch "$jars/.complete"
}

properties() {
  cat <<P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=$data/log
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
P
}

tiered_properties=(
  remote.log.storage.system.enable=true
  remote.log.storage.manager.class.name=org.apache.kafka.server.log.remote.storage.LocalTieredStorage
  remote.log.storage.manager.class.path=
  remote.log.metadata.manager.listener.name=PLAINTEXT
  rlmm.config.remote.log.metadata.topic.replication.factor=1
  rsm.config.dir=$data/remote
  log.retention.check.interval.ms=1000
  remote.log.manager.task.interval.ms=1000
)

start() {
  rm -rf "$data"; mkdir -p "$data"
  { properties; printf '%s\n' "$@"; } > "$data/server.properties"
  cd "$data"
  local id
  id=$(java -cp "$jars/*" kafka.tools.StorageTool random-uuid | tail -1)
  java -cp "$jars/*" kafka.tools.StorageTool format -t "$id" -c server.properties > format.log 2>&1
  echo "$EPOCHREALTIME" > launched
  setsid java "${heap[@]}" -XX:+UseG1GC -cp "$jars/*" kafka.Kafka server.properties > broker.log 2>&1 < /dev/null &
  echo $! > "$data/pid"
  for _ in $(seq 600); do
    if (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null; then return; fi
    sleep 0.1
  done
  echo "Kafka did not start; see $data/broker.log" >&2
  return 1
}

end() { # SIGNAL
  [[ -f $data/pid ]] || return 0
  local pid
  pid=$(cat "$data/pid")
  kill "-$1" "$pid" 2> /dev/null || true
  for _ in $(seq 300); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
  rm -f "$data/pid"
}

command=${1:-help}
shift || true
case $command in
  install) install ;;
  start) start "$@" ;;
  tiered) start "${tiered_properties[@]}" "$@" ;;
  stop) end TERM ;;
  kill) end KILL ;;
  pid) cat "$data/pid" ;;
  tool) # without the jar of tests, whose settings make every tool write a log into the working directory
    exec java "${TOOL_HEAP:--Xmx256m}" -cp "$(find "$jars" -name '*.jar' ! -name '*-test.jar' | tr '\n' ':')" "$@" ;;
  *) sed -n '2,12p' "${BASH_SOURCE[0]}" ;;
esac
