mkdir -p /var/log/pos
seq 1 400000 > /var/log/pos/debug.log
