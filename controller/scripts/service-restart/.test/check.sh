[ "$(cat /run/demo-state)" = active ]
