own=/etc/systemd/system/fernwart-agent.service
usual='^ExecStart=.* --home "\?/var/lib/fernwart-agent"\? run$'
if [ -f "$own" ] && [ ! -L "$own" ] && grep -q "$usual" "$own"; then
    ! grep -q '^ExecStart="\?/usr/local/bin/fernwart-agent"\? ' "$own" || rm -f /usr/local/bin/fernwart-agent
    rm -f "$own"
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # An upgrade leaves a service that was disabled as it is.
    [ "$1" -gt 1 ] || systemctl enable fernwart-agent.service
    systemctl is-enabled --quiet fernwart-agent.service && systemctl restart fernwart-agent.service
fi
exit 0
