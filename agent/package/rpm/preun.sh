if [ "$1" = 0 ]; then
    if [ -e /var/lib/fernwart-agent/agent.toml ]; then
        /usr/bin/fernwart-agent leave --yes || echo "the IT support may not have been told; the keys may still be in /var/lib/fernwart-agent" >&2
    fi
    [ ! -d /run/systemd/system ] || systemctl disable --now fernwart-agent.service
fi
exit 0
