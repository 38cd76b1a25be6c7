own=/etc/systemd/system/fernwart-agent.service
start='^ExecStart=.* --home "?/var/lib/fernwart-agent"? run$'
written='^(|\[(Unit|Service|Install)\]|Description=Fernwart agent: .*|(After|Wants)=network-online\.target|Restart=always|RestartSec=2|MemoryHigh=64M|Environment=MALLOC_ARENA_MAX=1|UMask=0077|WantedBy=multi-user\.target)$'
if [ -f "$own" ] && [ ! -L "$own" ] && grep -Eq "$start" "$own"; then
    if grep -Ev "$start" "$own" | grep -Eqv "$written"; then
        echo "$own was edited and stays; the program that it starts is not updated by this package" >&2
    else
        ! grep -q '^ExecStart="\?/usr/local/bin/fernwart-agent"\? ' "$own" || rm -f /usr/local/bin/fernwart-agent
        rm -f "$own"
    fi
fi
# A service of this name that somebody has set up by hand is not this package's to start.
if [ -f "$own" ] && [ ! -L "$own" ]; then
    exit 0
fi
# An upgrade leaves a service that was disabled as it is.
[ "$1" -gt 1 ] || systemctl enable fernwart-agent.service
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemd-run --quiet --collect --unit="fernwart-agent-renew-$$" /usr/lib/fernwart-agent/renew
fi
exit 0
