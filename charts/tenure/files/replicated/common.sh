#!/bin/sh
# Functions of the scripts of a pod. The pod sets:
#   NODE_HOSTS     the names of all pods, of which the first one is the first master
#   NODE_HOST      the name of this pod, which is one of them
#   NODE_PASSWORD  the secret that the pods share
#   DOWN_AFTER     seconds for which the master must be silent before it is replaced
# redis.sh needs CONTROLLER_RULES besides, the rules of the controller's user; none, if its passwords are those of the user default. A test
# sets addresses and folders as well.
: "${LOCAL:=127.0.0.1}" "${REDIS_PORT:=6379}" "${SENTINEL_PORT:=26379}" "${DATA:=/data}" "${SECRETS:=/run/secrets/tenure-redis}"
SERVICE=tenure
# shellcheck disable=SC2034 # for the scripts
QUORUM=2

# The password of one of the pods' own users. It does not lead to those of the others.
password_of() {
  printf '%s %s' "$1" "$NODE_PASSWORD" | sha256sum | cut -d ' ' -f 1
}

# Asks the Redis of a host: redis HOST COMMAND...
redis() {
  ask "$REDIS_PORT" "$@"
}

# Asks the Sentinel of a host: sentinel HOST COMMAND...
sentinel() {
  ask "$SENTINEL_PORT" "$@"
}

# No password stands in an argument.
ask() {
  port=$1 at=$2
  shift 2
  REDISCLI_AUTH=$(password_of tenure-node) timeout 3 redis-cli --user tenure-node -h "$at" -p "$port" "$@" 2>&1 </dev/null || true
}

# The value of a field of INFO in $info.
field() {
  printf '%s\n' "$info" | sed -n "s/^$1:\(.*\)/\1/p"
}

# The value of a field in a reply of Sentinel, in which names and values take turns.
value() {
  printf '%s\n' "$reply" | sed -n "/^$1\$/{n;p;q;}"
}

info_of() {
  info=$(redis "$1" info | tr -d '\r')
}

# Asks all Sentinels for the master, and sets:
#   master   its name by the newest configuration, empty if no Sentinel has one
#   named    the number of Sentinels that name a master, and `elsewhere` of those that name another pod than this one
#   unnamed  the number of Sentinels that know of none
#   own      the answer of the Sentinel of this pod: named, unnamed or silent
# shellcheck disable=SC2034 # for the scripts
ask_sentinels() {
  master='' named=0 elsewhere=0 unnamed=0 own=silent newest=-1
  for host in $NODE_HOSTS; do
    reply=$(sentinel "$host" sentinel master "$SERVICE")
    epoch=$(value config-epoch)
    case $reply in
      *'No such master'*) answer=unnamed unnamed=$((unnamed + 1)) ;;
      *) answer=silent ;;
    esac
    if [ -n "$epoch" ]; then
      settings=$(value down-after-milliseconds)
      # While a failover ends, this has the new master sooner.
      name=$(sentinel "$host" sentinel get-master-addr-by-name "$SERVICE" | head -n 1)
      case " $NODE_HOSTS " in
        *" $name "*)
          answer=named named=$((named + 1))
          [ "$name" = "$NODE_HOST" ] || elsewhere=$((elsewhere + 1))
          [ "$epoch" -le "$newest" ] || newest=$epoch master=$name
          # It has the master, and not the settings.
          [ "$host" != "$NODE_HOST" ] || [ "$settings" = "${DOWN_AFTER}000" ] || configure
          ;;
      esac
    fi
    [ "$host" != "$NODE_HOST" ] || own=$answer
  done
}

# The commands that give the Sentinel of this pod its settings for the master.
settings() {
  echo "sentinel set $SERVICE auth-user tenure-sentinel auth-pass $(password_of tenure-sentinel)" \
    "down-after-milliseconds ${DOWN_AFTER}000 failover-timeout $(failover_timeout) parallel-syncs 1"
}

# A failover that did not come about is tried again after twice this.
failover_timeout() {
  echo "$((DOWN_AFTER + 1))000"
}

configure() {
  settings | commands
}

# Gives commands from standard input to the Sentinel of this pod.
commands() {
  REDISCLI_AUTH=$(password_of tenure-node) timeout 3 redis-cli --user tenure-node -h "$LOCAL" -p "$SENTINEL_PORT" >/dev/null 2>&1 || true
}

# True if the Sentinel of a host knows a replica that it may promote. It looks at replicas every ten seconds.
can_promote() {
  case $(sentinel "$1" sentinel replicas "$SERVICE" | candidates) in
    *yes*) return ;;
  esac
  return 1
}

candidates() {
  flags='' link=''
  while read -r key && read -r value; do
    case $key in
      name) flags='' link='' ;;
      flags) flags=$value ;;
      master-link-status) link=$value ;;
      *-priority) [ "$flags,$link" != slave,ok ] || [ "$value" = 0 ] || echo yes ;;
    esac
  done
}

log() {
  [ "$*" = "${logged:-}" ] || echo "$(basename "$0"): $*" >&2
  logged=$*
}
