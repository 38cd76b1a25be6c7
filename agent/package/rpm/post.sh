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
    # As in the .deb: not while something runs that the agent has started.
    systemd-run --quiet --collect --unit="fernwart-agent-renew-$$" /bin/sh -c '
        pid=$(systemctl show -P MainPID fernwart-agent.service)
        waited=0
        while [ $waited -lt 3700 ] && [ -n "$(cat /proc/$pid/task/*/children 2>/dev/null)" ]; do
            sleep 1
            waited=$((waited + 1))
        done
        systemctl try-restart fernwart-agent.service'
fi
exit 0
