echo stale > /run/lease
cat > /usr/bin/systemctl <<'FAKE'
#!/bin/sh
[ "$2" = systemd-networkd.service ] && echo active
FAKE
cat > /usr/bin/networkctl <<'FAKE'
#!/bin/sh
[ "$1 $2" = "renew lo" ] && echo new > /run/lease
FAKE
chmod 755 /usr/bin/systemctl /usr/bin/networkctl
