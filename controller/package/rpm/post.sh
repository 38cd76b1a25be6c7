getent group fernwart >/dev/null || groupadd --system fernwart
getent passwd fernwart >/dev/null ||
    useradd --system --gid fernwart --home-dir /var/lib/fernwart --no-create-home --shell /usr/sbin/nologin fernwart
install -d -m 0700 -o fernwart -g fernwart /var/lib/fernwart
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    [ "$1" -gt 1 ] || systemctl enable fernwart-hub.service
    systemctl is-enabled --quiet fernwart-hub.service && systemctl restart fernwart-hub.service
fi
exit 0
