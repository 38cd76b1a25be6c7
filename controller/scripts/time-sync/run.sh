# chrony where it is, else systemd's own.
echo "before: $(date --iso-8601=seconds)"
if command -v chronyc >/dev/null; then
    [ "$FERNWART_DRY_RUN" = 1 ] && echo "would set the clock through chrony" && exit 0
    systemctl restart chrony.service 2>/dev/null || systemctl restart chronyd.service
    sleep 5
    chronyc -a makestep
elif command -v timedatectl >/dev/null && timedatectl show --property=CanNTP --value | grep -q yes; then
    [ "$FERNWART_DRY_RUN" = 1 ] && echo "would set the clock through systemd-timesyncd" && exit 0
    timedatectl set-ntp true
    systemctl restart systemd-timesyncd.service
else
    exit 3
fi
tries=0
while [ "$tries" -lt 30 ]; do
    if timedatectl show --property=NTPSynchronized --value | grep -q yes; then
        echo "after: $(date --iso-8601=seconds)"
        exit 0
    fi
    sleep 1
    tries=$((tries + 1))
done
exit 4
