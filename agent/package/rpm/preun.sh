if [ "$1" = 0 ]; then
    if [ -e /var/lib/fernwart-agent/agent.toml ]; then
        /usr/bin/fernwart-agent leave --yes || echo "the IT support may not have been told; the keys may still be in /var/lib/fernwart-agent" >&2
    fi
    # A service of this name that somebody has set up by hand is not this package's to stop.
    own=/etc/systemd/system/fernwart-agent.service
    if [ ! -f "$own" ] || [ -L "$own" ]; then
        [ ! -d /run/systemd/system ] || systemctl disable --now fernwart-agent.service
    fi
fi
exit 0
