getent group fernwart >/dev/null || groupadd --system fernwart
getent passwd fernwart >/dev/null ||
    useradd --system --gid fernwart --home-dir /var/lib/fernwart --no-create-home --shell /usr/sbin/nologin fernwart
[ -e /var/lib/fernwart ] || install -d -m 0700 -o fernwart -g fernwart /var/lib/fernwart
[ "$1" -gt 1 ] || systemctl enable fernwart-hub.service
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart fernwart-hub.service
fi
exit 0
