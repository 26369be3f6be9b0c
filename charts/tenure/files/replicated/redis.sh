#!/bin/sh
# Starts the Redis of a pod in its role.
#
# The Sentinels know the master. A pod that they do not name becomes its replica, whatever it has on its disk, and may be promoted
# once it has the data of the master. The pod that they name has lost its process, and maybe its disk:
#
# | the pod has  | another pod                      | it                                             |
# |--------------|----------------------------------|------------------------------------------------|
# | anything     | has the data from before the end | has the Sentinels promote that one             |
# | its file     | has not                          | becomes the master again                       |
# | nothing      | has older data                   | waits for a person: see docs/redis.md          |
# | nothing      | does not answer                  | waits for its answer                           |
# | nothing      | none of the others has any data  | becomes the master                             |
#
# If all three Sentinels know of no master, the release is new, and the first pod becomes the master.
set -eu
# shellcheck disable=SC2154 # common.sh sets them
. "$(dirname "$0")/common.sh"

# Attempts to have another pod promoted, one a second, before a pod with a file becomes the master again.
ATTEMPTS=30
trap 'exit 143' TERM INT

# The passwords of the controller's user, as rules: the one in use, and the one before it for as long as both are valid.
passwords=''
for name in password previous-password; do
  [ -e "$SECRETS/$name" ] || [ "$name" = password ] || continue
  password=$(cat "$SECRETS/$name")
  case $password in
    ''|*[!\ -~]*|*[\"\\\ ]*)
      echo "the key $name must be of printable ASCII characters without space, \" and backslash" >&2
      exit 1 ;;
  esac
  passwords="$passwords \">$password\""
done

# The newest part of the append-only file, if there is one.
newest_file() {
  # shellcheck disable=SC2012 # Redis names its files
  ls -t "$DATA/appendonlydir" 2>/dev/null | head -n 1
}

# Looks at the other pods, and sets:
#   successor  a pod that had the data of this one until the end, or is the master already
#   holders    the pods that have any data
#   silent     the pods that do not answer, or are about to load their data
look_at_others() {
  successor='' holders='' silent=''
  file=$(newest_file)
  # The time since the last write of this pod, for which a replica may have been without it.
  if [ -n "$file" ]; then
    idle=$(($(date +%s) - $(stat -c %Y "$DATA/appendonlydir/$file")))
  else
    idle=999999999
  fi
  for host in $NODE_HOSTS; do
    [ "$host" != "$NODE_HOST" ] || continue
    info_of "$host"
    role=$(field role)
    if [ -z "$role" ] || [ "$(field loading)" != 0 ]; then
      silent="$silent $host"
      continue
    fi
    [ -z "$(field 'db[0-9]*')" ] || holders="$holders $host"
    case $role in
      master) successor=$host ;;
      slave)
        # Below zero: it has never had the data of its master.
        since=$(field master_link_down_since_seconds)
        if [ "$(field master_host)" = "$NODE_HOST" ] && [ "${since:-0}" -ge 0 ] && [ "${since:-0}" -le $((idle + 10)) ]; then
          successor=$host
        fi
        ;;
    esac
  done
}

# Sets `choice` to master or replica; fails while it is not certain.
choose() {
  ask_sentinels
  if [ "$own" = unnamed ]; then
    if [ -n "$master" ]; then
      monitor "$master"
    elif [ "$unnamed" = 3 ]; then
      monitor "${NODE_HOSTS%% *}"
    fi
  fi
  if [ "$own" != named ] || [ "$named" -lt "$QUORUM" ]; then
    log "waiting for $QUORUM Sentinels that name a master; this pod's is $own, $named name one, $unnamed know of none"
    return 1
  fi
  if [ "$master" != "$NODE_HOST" ]; then
    choice=replica
    return
  fi
  look_at_others
  if [ -n "$successor" ] && { [ -z "$(newest_file)" ] || [ $((attempts += 1)) -le $ATTEMPTS ]; }; then
    log "this pod was the master, and $successor has its data: asking the Sentinels to promote that one"
    for host in $NODE_HOSTS; do
      case $(sentinel "$host" sentinel failover "$SERVICE") in
        OK*|INPROG*) break ;;
      esac
    done
    return 1
  fi
  if [ -z "$(newest_file)" ]; then
    if [ -n "$holders" ]; then
      log "this pod was the master and has no data; those of$holders may be older. Nothing is promoted without a person:" \
        "see 'A master that has lost its volume' in docs/redis.md"
      return 1
    elif [ -n "$silent" ]; then
      log "this pod has no data, and waits for$silent to answer that they have none"
      return 1
    fi
  fi
  choice=master
}

# Names the master to the Sentinel of this pod.
monitor() {
  log "naming $1 to the Sentinel of this pod"
  {
    echo "sentinel monitor $SERVICE $1 $REDIS_PORT $QUORUM"
    settings
  } | commands
}

attempts=0
until choose; do
  sleep 1
done
log "starting as $choice; the Sentinels name $master"

if [ "$choice" = replica ]; then
  # Without the data of the master it must not be promoted.
  role="replicaof $master $REDIS_PORT
replica-priority 0"
else
  role='replica-priority 100'
fi

# The user default reads the append-only file, and leaves out effects of scripts that it may not have.
if [ -n "$CONTROLLER_RULES" ]; then
  users="user default reset ~* &* +@all
user tenure-controller reset on $passwords $CONTROLLER_RULES"
else
  users="user default reset on $passwords ~* &* +@all"
fi

# Passwords go in by standard input: they stand in no argument.
redis-server - <<END &
include $(dirname "$0")/redis.conf
port $REDIS_PORT
dir $DATA
$role
replica-announce-ip $NODE_HOST
replica-announce-port $REDIS_PORT
masteruser tenure-replica
masterauth $(password_of tenure-replica)
$users
user tenure-sentinel reset on >$(password_of tenure-sentinel) &__sentinel__:hello +ping +info +publish +subscribe +multi +exec +slaveof +config|rewrite +client|setname +client|kill +script|kill
user tenure-replica reset on >$(password_of tenure-replica) +ping +psync +replconf
user tenure-node reset on >$(password_of tenure-node) +ping +info +client|pause +config|set
END
server=$!
trap 'kill -TERM "$server" 2>/dev/null' TERM INT

if [ "$choice" = replica ]; then
  # MASTERDOWN until it has the data of the master, and LOADING while it takes them over.
  while kill -0 "$server" 2>/dev/null && [ "$(redis "$LOCAL" ping)" != PONG ]; do
    sleep 1
  done
  redis "$LOCAL" config set replica-priority 100 >/dev/null
fi

# A signal ends `wait`, and not Redis.
while :; do
  code=0
  wait "$server" || code=$?
  kill -0 "$server" 2>/dev/null || exit "$code"
done
