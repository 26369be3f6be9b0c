#!/bin/sh
# Has the Sentinels promote this pod with the data that it has, however old. It is for a person: see 'A master that has lost its volume' in
# docs/redis.md.
set -eu
. "$(dirname "$0")/common.sh"

redis "$LOCAL" config set replica-priority 1 >/dev/null
# A Sentinel looks at the priority each second or each ten.
for _ in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do
  for host in $NODE_HOSTS; do
    answer=$(sentinel "$host" sentinel failover "$SERVICE")
    [ "$answer" != OK ] || exit 0
  done
  sleep 1
done
echo "$answer" >&2
exit 1
