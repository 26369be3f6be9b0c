#!/bin/sh
# Starts the Sentinel of a pod. It has the master from its file, or else redis.sh names one to it.
set -eu
. "$(dirname "$0")/common.sh"

folder=$DATA/sentinel
file=$folder/sentinel.conf
mkdir -p "$folder"
state=$(grep -E '^sentinel (myid|current-epoch|monitor|config-epoch|leader-epoch|known-replica|known-sentinel) ' "$file" 2>/dev/null || true)
# A client needs no credentials to ask for the master.
cat >"$file.new" <<END
port $SENTINEL_PORT
dir $folder
user default reset on nopass +ping +sentinel|get-master-addr-by-name
user tenure-sentinel reset on >$(password_of tenure-sentinel) &__sentinel__:hello +ping +publish +client|setname +sentinel|is-master-down-by-addr
user tenure-node reset on >$(password_of tenure-node) +ping +sentinel|master +sentinel|replicas +sentinel|get-master-addr-by-name +sentinel|monitor +sentinel|set +sentinel|failover
sentinel sentinel-user tenure-sentinel
sentinel sentinel-pass $(password_of tenure-sentinel)
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $NODE_HOST
sentinel announce-port $SENTINEL_PORT
$state
END
case $state in
  *"sentinel monitor "*)
    # shellcheck disable=SC2046 # the parts of the command
    set -- $(settings)
    shift 3
    while [ $# -gt 1 ]; do
      echo "sentinel $1 $SERVICE $2"
      shift 2
    done >>"$file.new"
    ;;
esac
mv "$file.new" "$file"
exec redis-server "$file" --sentinel
