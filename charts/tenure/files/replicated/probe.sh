#!/bin/sh
# The probes of a pod: probe.sh alive|ready|sentinel-alive|sentinel-ready
#
# A Sentinel is ready when it could replace the master. A Redis is alive if it answers, also without the data of its master, while it
# loads them, runs a script, or cannot write to its disk: a restart mends none of these, and would lose what the disk does not have.
set -eu
. "$(dirname "$0")/common.sh"

case $1 in
  sentinel-*) reply=$(sentinel "$LOCAL" ping) ;;
  *) reply=$(redis "$LOCAL" ping) ;;
esac
case $1,$reply in
  sentinel-ready,PONG)
    can_promote "$LOCAL" || { echo 'it knows of no replica that could be promoted'; exit 1; }
    ;;
  *,PONG | alive,LOADING* | alive,BUSY* | alive,MISCONF* | alive,MASTERDOWN*) ;;
  *) echo "$reply"; exit 1 ;;
esac
