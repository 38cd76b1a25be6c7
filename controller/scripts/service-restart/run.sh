# Restarts one unit and waits until systemd calls it active.
unit=$FERNWART_PARAM_UNIT

if [ "$(systemctl show --property=LoadState --value -- "$unit")" = not-found ]; then
    echo "$unit is not installed here"
    exit 3
fi
echo "before: $(systemctl is-active -- "$unit")"
if [ "$FERNWART_DRY_RUN" = 1 ]; then
    echo "would restart $unit"
    exit 0
fi

systemctl reset-failed -- "$unit"
systemctl restart -- "$unit" || true
tries=0
while [ "$tries" -lt 20 ]; do
    state=$(systemctl is-active -- "$unit")
    if [ "$state" = active ]; then
        echo "after: active"
        exit 0
    fi
    sleep 1
    tries=$((tries + 1))
done
echo "after: $state"
systemctl status --no-pager --lines=10 -- "$unit"
exit 4
