[ ! -e /var/cache/apt/archives/big_1_all.deb ] && [ ! -e /var/log/pos/debug.log.1.gz ] &&
    [ -e /var/log/pos/today.log.1.gz ] && [ -e /var/log/pos/debug.log ] && [ -e /srv/books/2026.gz ]
