# e2fsck -n never writes; -p repairs what is safe to repair, -y all of it.
place=$FERNWART_PARAM_MOUNT
device=$place
if [ -d "$place" ]; then
    device=$(findmnt --noheadings --output=SOURCE --mountpoint "$place") || exit 3
fi
type=$(blkid -p -s TYPE -o value -- "$device")
case $type in
    ext2 | ext3 | ext4) ;;
    *) echo "$device is ${type:-unknown}"; exit 3 ;;
esac
e2fsck -f -n -- "$device"
found=$?
if [ "$found" -lt 4 ]; then
    echo "$device is whole"
    exit 0
fi
if [ "$FERNWART_PARAM_REPAIR" != true ] || [ "$FERNWART_DRY_RUN" = 1 ]; then
    exit 4
fi
if findmnt --noheadings --source "$device" >/dev/null; then
    exit 6
fi
e2fsck -f -y -- "$device"
e2fsck -f -n -- "$device" >/dev/null || exit 4
exit 5
