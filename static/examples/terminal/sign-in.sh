#!/bin/sh
# Signs a terminal in through token-relay, with curl alone.
#
#   sh sign-in.sh https://relay.example [NAME] > token
#
# The access token goes to standard output, everything for people to standard error. Exit status:
# 0 signed in, 1 refused, cancelled or expired, 2 wrong usage, 3 the relay cannot be reached.
set -eu

relay=${1:-}
name=${2:-Terminal}
[ -n "$relay" ] || { echo "usage: sign-in.sh RELAY [NAME]" >&2; exit 2; }
case $name in *[\"\\]*) echo "the name may hold neither quotes nor backslashes" >&2; exit 2 ;; esac

# member JSON NAME: a string of a flat object, as the relay writes it (no escapes in these members).
member() { printf '%s\n' "$1" | sed -n "s/.*\"$2\":\"\([^\"]*\)\".*/\1/p"; }

session=$(curl -sS --fail-with-body --max-time 10 -X POST "${relay%/}/addons/sessions" \
  -H 'Content-Type: application/json' \
  -d "{\"bind\":true,\"confirm\":true,\"client_name\":\"$name\"}") || {
  echo "no session at $relay: $session" >&2
  exit 3
}
events=$(member "$session" events_url)
self=$(member "$session" poll_url)

# The session token goes to curl by a file, because every user of the machine sees the arguments of
# a process.
private=$(mktemp -d)
waiting=
# Ends the session, too: acknowledged when the token came, else cancelled.
finish() {
  [ -z "$waiting" ] || kill "$waiting" 2>/dev/null || true
  curl -s -o /dev/null --max-time 10 -X DELETE -H "@$private/authorization" "$self" || true
  rm -rf "$private"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP
( umask 077; printf 'Authorization: Bearer %s\n' "$(member "$session" session_token)" > "$private/authorization" )

cat >&2 <<TEXT
Open this address in a browser:

    $(member "$session" transit_url)

and continue only if it shows the code $(member "$session" user_code)
TEXT

# The stream ends after one event; a stream that is cut before is opened again. `curl` runs in the
# background, so that an interrupt is heard at once.
tries=0
while :; do
  curl -sSN -H "@$private/authorization" -H 'Accept: text/event-stream' -w '\nstatus %{http_code}\n' "$events" \
    > "$private/events" 2> "$private/trouble" &
  waiting=$!
  wait "$waiting" || true
  waiting=
  event=$(sed -n 's/^event: *//p' "$private/events" | tail -n 1)
  data=$(sed -n 's/^data: *//p' "$private/events" | tail -n 1)
  case $event in
    authenticated)
      member "$data" access_token
      echo 'Signed in.' >&2
      exit 0
      ;;
    failed)
      echo "Not signed in: $(member "$data" error)" >&2
      exit 1
      ;;
    expired)
      echo 'Not signed in: the time to sign in is over.' >&2
      exit 1
      ;;
  esac
  status=$(sed -n 's/^status //p' "$private/events" | tail -n 1)
  case $status in
    401 | 404 | 410)
      echo 'Not signed in: the session is over.' >&2
      exit 1
      ;;
    200) tries=0 ;; # it was open, and was cut
    *) tries=$((tries + 1)) ;;
  esac
  [ "$tries" -lt 10 ] || { cat "$private/trouble" >&2; exit 3; }
  sleep 2
done
