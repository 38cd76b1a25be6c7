echo no > /run/synced
rm -f /usr/bin/chronyc
cat > /usr/bin/timedatectl <<'FAKE'
#!/bin/sh
case "$*" in
    *CanNTP*) echo yes ;;
    *NTPSynchronized*) cat /run/synced ;;
    "set-ntp true") echo on > /run/ntp ;;
esac
FAKE
cat > /usr/bin/systemctl <<'FAKE'
#!/bin/sh
[ "$*" = "restart systemd-timesyncd.service" ] && [ "$(cat /run/ntp)" = on ] && echo yes > /run/synced
FAKE
chmod 755 /usr/bin/timedatectl /usr/bin/systemctl
