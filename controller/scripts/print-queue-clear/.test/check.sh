[ ! -e /var/spool/cups/c00017 ] && [ ! -e /var/spool/cups/d00017-001 ] &&
    [ -e /var/spool/cups/keep.conf ] && [ "$(cat /run/cups-state)" = active ]
