# The kernel tells of every lock that is held, by the file's inode, and of every process:
# under $FERNWART_PROC, where this machine's are seen and not only the script's own.
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
age=$((($(date +%s) - $(stat -c %Y -- "$lock")) / 60))
if [ "$age" -lt "$FERNWART_PARAM_OLDER_MIN" ]; then
    echo "$lock is $age min old"
    exit 5
fi

# A process that has it open may lock it at any time.
if [ "${FERNWART_OPEN_BY-unknown}" = unknown ]; then
    echo "this machine cannot tell who has it open"
    exit 4
fi
if [ -n "$FERNWART_OPEN_BY" ]; then
    for number in $FERNWART_OPEN_BY; do
        echo "process $number has it open: $(cat "$FERNWART_PROC/$number/comm")"
    done
    exit 4
fi

# Whether a process of this number is alive, here or in a container's own count.
alive() { # NUMBER
    [ -d "$FERNWART_PROC/$1" ] || grep -qsE "^NSpid:.*[[:space:]]$1([[:space:]]|\$)" "$FERNWART_PROC"/[0-9]*/status
}

# A program may also only have written its number into it: alone or beside other words,
# as text or as four bytes.
held() { # FILE
    inode=$(stat -c %i -- "$1")
    if grep ":$inode " "$FERNWART_PROC/locks"; then
        return 0
    fi
    if [ "$(stat -c %s -- "$1")" = 4 ]; then
        number=$(od -An -tu4 -- "$1" | tr -d ' ')
        if alive "$number"; then
            echo "process $number, which it names, is running"
            return 0
        fi
    fi
    numbers=$(head -c 4096 -- "$1" | tr -cs 0-9 ' ')
    for number in $numbers; do
        number=${number#"${number%%[!0]*}"}
        # What is shorter beside other words is part of a name.
        case $number in
            '' | ????????*) continue ;;
            ? | ??) grep -qx "[0 ]*$number *" -- "$1" || continue ;;
        esac
        if alive "$number"; then
            echo "process $number, which it names, is running"
            return 0
        fi
    done
    return 1
}
held "$lock" && exit 4
echo "$lock: $age min old, held by nobody"
[ "$FERNWART_DRY_RUN" = 1 ] && exit 0

# Out of everybody's reach first: whoever had opened it before may lock it still, and
# is seen to, and then it is put back.
aside=$lock.removing.$FERNWART_RUN
trap 'ln -T -- "$aside" "$lock" && rm -f -- "$aside"; exit 4' TERM INT HUP
ln -T -- "$lock" "$aside" && rm -f -- "$lock" || exit 5
sleep 1
if held "$aside"; then
    # Another may have been made meanwhile; then it is that one that counts.
    ln -T -- "$aside" "$lock" && rm -f -- "$aside"
    exit 4
fi
rm -f -- "$aside"
