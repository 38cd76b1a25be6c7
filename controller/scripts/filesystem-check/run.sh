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
# While it is written to, what is on the disk is never whole: looking at it would
# find damage that is none. The file system's own record tells then.
busy=
readonly=
for options in $(findmnt --noheadings --output=FS-OPTIONS --source "$device"); do
    case ,$options, in *,ro,*) readonly=1 ;; *) busy=1 ;; esac
done
# The kernel tells of what is mounted anywhere, in a container or a service's own view,
# too. A file may be one through a loop device.
name=$(basename "$(readlink -f "$device")")
for loop in /sys/block/loop*/loop/backing_file; do
    if [ -r "$loop" ] && [ "$(cat "$loop")" = "$(readlink -f "$device")" ]; then
        name=$(basename "$(dirname "$(dirname "$loop")")")
        busy=1
    fi
done
# These are the options of the file system itself, which are the same in every view.
[ -d "/sys/fs/ext4/$name" ] && [ -z "$readonly" ] && busy=1
if [ -n "$busy" ]; then
    record=/sys/fs/ext4/$name/errors_count
    if [ -r "$record" ] && [ "$(cat "$record")" -gt 0 ]; then
        echo "$device is in use and has recorded $(cat "$record") errors"
        exit 4
    fi
    echo "$device is in use; it has recorded no errors"
    exit 6
fi
# From 8 on it could not look at all (e2fsck(8)). A count that is wrong is damage to us,
# whatever it calls it.
said=$(e2fsck -f -n -- "$device" 2>&1)
found=$?
printf '%s\n' "$said"
[ "$found" -ge 8 ] && exit 8
case $said in *'? no'*) found=4 ;; esac
if [ "$found" -lt 4 ]; then
    echo "$device is whole"
    exit 0
fi
if [ "$FERNWART_PARAM_REPAIR" != true ] || [ "$FERNWART_DRY_RUN" = 1 ]; then
    exit 4
fi
if findmnt --noheadings --source "$device" >/dev/null; then
    exit 7
fi
e2fsck -f -y -- "$device"
[ $? -ge 8 ] && exit 7
e2fsck -f -n -- "$device" >/dev/null || exit 4
exit 5
