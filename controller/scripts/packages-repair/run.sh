# Interrupted packages are configured, then missing dependencies are fetched.
command -v dpkg >/dev/null || exit 3
export DEBIAN_FRONTEND=noninteractive
broken() { dpkg --audit; }
echo "before:"
broken
if [ "$FERNWART_DRY_RUN" = 1 ]; then
    dpkg --configure --pending --no-act
    exit 0
fi
# A lock that is held is in the kernel's list, whoever holds it.
for lock in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock; do
    if [ -e "$lock" ] && grep -q ":$(stat -c %i "$lock") " /proc/locks; then
        echo "$lock is held"
        exit 4
    fi
done
dpkg --configure --pending --force-confdef --force-confold </dev/null
if [ -n "$(broken)" ] && command -v apt-get >/dev/null; then
    apt-get --quiet --yes --fix-broken install </dev/null
fi
left=$(broken)
[ -z "$left" ] && echo "all packages are whole" && exit 0
echo "$left"
exit 5
