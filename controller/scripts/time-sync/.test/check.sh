[ "$(cat /run/synced)" = yes ]
