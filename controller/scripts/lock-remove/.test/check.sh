[ ! -e /var/cache/till/till.lock ]
