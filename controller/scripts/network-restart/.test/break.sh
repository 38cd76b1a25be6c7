cat > /usr/bin/systemctl <<'FAKE'
#!/bin/sh
case "$1 $2" in
    "is-active systemd-networkd.service") echo active ;;
    "restart systemd-networkd.service") echo up > /run/network-state ;;
esac
FAKE
cat > /usr/bin/ip <<'FAKE'
#!/bin/sh
[ -e /run/network-state ] && echo "default via 192.0.2.1 dev eth0"
FAKE
chmod 755 /usr/bin/systemctl /usr/bin/ip
# The script must find the fake first, wherever ip lies.
rm -f /usr/sbin/ip /sbin/ip; ln -sf /usr/bin/ip /usr/sbin/ip
