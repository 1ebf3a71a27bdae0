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

# What the relay sends is checked before it reaches the terminal, curl or a browser.
printable() { printf '%s' "$1" | tr -cd '[:alnum:] [:punct:]' | cut -c 1-300; }

session=$(curl -sS --fail-with-body --max-time 10 -X POST "${relay%/}/addons/sessions" \
  -H 'Content-Type: application/json' \
  -d "{\"bind\":true,\"client_name\":\"$name\"}") || {
  echo "no session at $relay: $(printable "$session")" >&2
  exit 3
}
events=$(member "$session" events_url)
self=$(member "$session" poll_url)
transit=$(member "$session" transit_url)
code=$(member "$session" user_code)
token=$(member "$session" session_token)
for url in "$events" "$self" "$transit"; do
  case $url in
    *[!A-Za-z0-9._~:/?=%\&+-]*) url= ;;
  esac
  case $url in
    "${relay%/}"/*) ;;
    *) echo "the relay names an address that is not below $relay; use its public URL" >&2; exit 3 ;;
  esac
done
case $token$code in
  '' | *[!A-Za-z0-9_-]*) echo 'what answers is no relay' >&2; exit 3 ;;
esac

# The session token goes to curl by a file, because every user of the machine sees the arguments of
# a process.
private=$(mktemp -d)
waiting=
# Ends the session as well: acknowledges the token, or cancels the sign-in.
finish() {
  [ -z "$waiting" ] || kill "$waiting" 2>/dev/null || true
  [ -z "$self" ] || curl -s -o /dev/null --max-time 10 -X DELETE -H "@$private/authorization" "$self" || true
  rm -rf "$private"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP
( umask 077; printf 'Authorization: Bearer %s\n' "$token" > "$private/authorization" )

cat >&2 <<TEXT
Open this address in a browser:

    $transit

and type the code $code there.
TEXT

# The stream ends after one event; a stream that is cut before is opened again. `curl` runs in the
# background, so that an interrupt takes effect at once.
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
      access_token=$(member "$data" access_token)
      case $access_token in
        '' | *[!A-Za-z0-9._~+/=-]*) echo 'the relay sent no token' >&2; exit 3 ;;
      esac
      printf '%s\n' "$access_token"
      echo 'Signed in.' >&2
      exit 0
      ;;
    failed)
      # The session is over, or another client reads it.
      self=
      echo "Not signed in: $(printable "$(member "$data" error)")" >&2
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
