[ "$(cat /run/network-state)" = up ]
