own=/etc/systemd/system/fernwart-agent.service
usual='^ExecStart=.* --home "\?/var/lib/fernwart-agent"\? run$'
if [ -f "$own" ] && [ ! -L "$own" ] && grep -q "$usual" "$own" && ! grep -q ^Condition "$own"; then
    ! grep -q '^ExecStart="\?/usr/local/bin/fernwart-agent"\? ' "$own" || rm -f /usr/local/bin/fernwart-agent
    rm -f "$own"
fi
# An upgrade leaves a service that was disabled as it is.
[ "$1" -gt 1 ] || systemctl enable fernwart-agent.service
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemd-run --quiet --collect --unit="fernwart-agent-renew-$$" /usr/lib/fernwart-agent/renew
fi
exit 0
