# $1 is what the script has written.
grep -q '== /var/log/pos/till.log' "$1" && grep -q 'printer: out of paper' "$1"
