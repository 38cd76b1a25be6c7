echo old-address > /run/cache
cat > /usr/bin/systemctl <<'FAKE'
#!/bin/sh
[ "$2" = systemd-resolved.service ] && echo active
FAKE
cat > /usr/bin/resolvectl <<'FAKE'
#!/bin/sh
[ "$1" = flush-caches ] && : > /run/cache
exit 0
FAKE
chmod 755 /usr/bin/systemctl /usr/bin/resolvectl
