# A service that has failed, and a systemctl that knows it.
echo failed > /run/demo-state
cat > /usr/bin/systemctl <<'FAKE'
#!/bin/sh
case $1 in
    show) echo loaded ;;
    is-active) cat /run/demo-state ;;
    reset-failed) echo inactive > /run/demo-state ;;
    restart) [ "$(cat /run/demo-state)" = inactive ] && echo active > /run/demo-state ;;
esac
FAKE
chmod 755 /usr/bin/systemctl
