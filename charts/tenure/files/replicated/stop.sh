#!/bin/sh
# Before the Redis of a pod stops: a master has the Sentinels promote a replica that has all of its data.
#
# Writes pause meanwhile, so that the next master has everything that was answered. Clients find it when this one has ended.
set -eu
# shellcheck disable=SC2154 # common.sh sets them
. "$(dirname "$0")/common.sh"
: "${STOP_SECONDS:=25}"
until=$(($(date +%s) + STOP_SECONDS))

left() {
  echo $((until - $(date +%s)))
}

# True while this pod is a master that has a replica, and there is time.
may_hand_over() {
  info_of "$LOCAL"
  [ "$(field role)" = master ] && [ "$(field connected_slaves)" != 0 ] && [ "$(left)" -gt 0 ]
}

# Sets `judge` to a Sentinel that can promote a replica.
find_judge() {
  for judge in $NODE_HOSTS; do
    ! can_promote "$judge" || return 0
  done
  return 1
}

# True if a replica has everything.
is_replicated() {
  info_of "$LOCAL"
  offset=$(field master_repl_offset)
  field 'slave[0-9]*' | grep -q ",offset=$offset,"
}

may_hand_over || exit 0
until find_judge; do
  sleep 1
  may_hand_over || exit 0
done
redis "$LOCAL" client pause "$(left)000" write >/dev/null
# A replica reports each second.
paused=$(date +%s)
until is_replicated || [ $(($(date +%s) - paused)) -gt 3 ]; do
  sleep 0.1
done
asked=0
while may_hand_over; do
  now=$(date +%s)
  if [ $((now - asked)) -ge 3 ] && find_judge; then
    asked=$now
    sentinel "$judge" sentinel failover "$SERVICE" >/dev/null
  fi
  ask_sentinels
  [ "$elsewhere" -lt "$QUORUM" ] || break
  sleep 0.2
done
