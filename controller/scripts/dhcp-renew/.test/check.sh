[ "$(cat /run/lease)" = new ]
