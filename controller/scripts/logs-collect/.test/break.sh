mkdir -p /var/log/pos
printf 'till opened\nprinter: out of paper\n' > /var/log/pos/till.log
