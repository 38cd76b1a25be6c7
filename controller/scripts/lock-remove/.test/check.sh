[ ! -e /var/lib/till/till.lock ]
