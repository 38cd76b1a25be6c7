if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl disable --now fernwart-hub.service
fi
exit 0
