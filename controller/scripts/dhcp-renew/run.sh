# Whoever manages the interface is asked: networkd, NetworkManager or dhclient.
interface=$FERNWART_PARAM_INTERFACE
if [ ! -e "/sys/class/net/$interface" ]; then
    echo "there is no $interface"
    exit 3
fi
ip -brief address show dev "$interface"
if command -v networkctl >/dev/null && [ "$(systemctl is-active systemd-networkd.service)" = active ]; then
    by=networkctl
elif command -v nmcli >/dev/null && [ "$(systemctl is-active NetworkManager.service)" = active ]; then
    by=nmcli
elif command -v dhclient >/dev/null; then
    by=dhclient
else
    exit 4
fi
echo "asking through $by"
[ "$FERNWART_DRY_RUN" = 1 ] && exit 0
case $by in
    networkctl) networkctl renew "$interface" || exit 4 ;;
    nmcli) nmcli device reapply "$interface" || exit 4 ;;
    dhclient) dhclient -1 "$interface" || exit 4 ;;
esac
sleep 3
ip -brief address show dev "$interface"
