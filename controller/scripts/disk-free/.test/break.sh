# Old packed logs and packages, and things that must stay.
mkdir -p /var/cache/apt/archives /var/log/pos /var/crash /srv/books
dd if=/dev/zero of=/var/cache/apt/archives/big_1_all.deb bs=1M count=8 2>/dev/null
dd if=/dev/zero of=/var/log/pos/debug.log.1.gz bs=1M count=8 2>/dev/null
touch -d '30 days ago' /var/log/pos/debug.log.1.gz
echo today > /var/log/pos/today.log.1.gz
echo running > /var/log/pos/debug.log
echo accounts > /srv/books/2026.gz
touch -d '400 days ago' /srv/books/2026.gz /var/log/pos/debug.log
