# The kernel lists every lock that is held, by the file's inode.
lock=$FERNWART_PARAM_PATH
[ -e "$lock" ] || exit 3
name=${lock##*/}
case $name in
    *lock* | *LCK* | *.pid) ;;
    *) echo "$lock does not look like a lock"; exit 5 ;;
esac
if [ -L "$lock" ] || [ ! -f "$lock" ] || [ "$(stat -c %s -- "$lock")" -gt 4096 ]; then
    exit 5
fi
inode=$(stat -c %i -- "$lock")
if grep -q ":$inode " /proc/locks; then
    grep ":$inode " /proc/locks
    exit 4
fi
age=$((($(date +%s) - $(stat -c %Y -- "$lock")) / 60))
if [ "$age" -lt "$FERNWART_PARAM_OLDER_MIN" ]; then
    echo "$lock is $age min old"
    exit 5
fi
echo "$lock: $age min old, held by nobody"
[ "$FERNWART_DRY_RUN" = 1 ] || rm -f -- "$lock"
