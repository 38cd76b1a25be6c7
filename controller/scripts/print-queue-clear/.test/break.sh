mkdir -p /var/spool/cups/tmp
touch /var/spool/cups/c00017 /var/spool/cups/d00017-001 /var/spool/cups/keep.conf
echo failed > /run/cups-state
cat > /usr/bin/systemctl <<'FAKE'
#!/bin/sh
case $1 in
    stop) echo inactive > /run/cups-state ;;
    is-active) cat /run/cups-state ;;
    start) [ -e /var/spool/cups/c00017 ] || echo active > /run/cups-state ;;
esac
FAKE
chmod 755 /usr/bin/systemctl
