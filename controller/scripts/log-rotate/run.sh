# Empties a log in place; its newest lines stay, the rest is packed beside it. All is
# done through what is open: an account that owns the folder may exchange names.
log=$FERNWART_PARAM_PATH
if [ -L "$log" ] || [ ! -f "$log" ]; then
    echo "$log is no plain file"
    exit 3
fi
if [ "$FERNWART_DRY_RUN" = 1 ]; then
    # Nothing is opened: a pipe that has come in its place would wait for its other end.
    echo "$log: $(($(stat -c %s -- "$log") / 1048576)) MiB"
    echo "would keep the newest $FERNWART_PARAM_KEEP_LINES lines"
    exit 0
fi
# To read and write, which waits at no pipe.
command exec 4<> "$log" || exit 3
open=/proc/self/fd/4
# A file with a second name may be another's, which was given this one.
if [ ! -f $open ] || [ "$(stat -L -c %h $open)" != 1 ]; then
    echo "$log is no plain file of its own"
    exit 3
fi
size() { stat -L -c %s $open; }
echo "$log: $(($(size) / 1048576)) MiB"

# What is kept begins here. Where that cannot be found out, nothing is touched.
before=$(size) || exit 5
kept=$({ tail -n "$FERNWART_PARAM_KEEP_LINES" $open || : > /tmp/fernwart/failed; } | wc -c)
if [ -e /tmp/fernwart/failed ] || { [ "$kept" = 0 ] && [ "$before" -gt 0 ] && [ "$FERNWART_PARAM_KEEP_LINES" -gt 0 ]; }; then
    exit 5
fi
from=$((before - kept))
if [ "$from" -le 0 ]; then
    echo "it has no more lines than are kept"
    exit 0
fi

if [ "$FERNWART_PARAM_PACK" = true ]; then
    packed=$log.$(date +%Y%m%d-%H%M%S).gz
    umask 077
    # Only a file that was not there: nobody has it open to read along. A pipe would
    # wait for whoever hears it.
    if [ -e "$packed" ] || [ -L "$packed" ]; then
        echo "$packed was there already"
        exit 4
    fi
    set -C
    command exec 5> "$packed" || exit 4
    set +C
    # Or one was made since.
    if [ ! -f /proc/self/fd/5 ] || [ "$(stat -L -c '%h %s' /proc/self/fd/5)" != "1 0" ]; then
        echo "$packed was there already"
        exit 4
    fi
    if ! gzip -c < $open >&5; then
        rm -f -- "$packed"
        exit 4
    fi
    chown --reference=$open /proc/self/fd/5
    chmod --reference=$open /proc/self/fd/5
    echo "packed into $packed: $(($(stat -L -c %s /proc/self/fd/5) / 1048576)) MiB"
fi
# In place, and over what is there: a full disk has no room for a second copy, and the
# program that writes the file goes on writing to the same one. What is kept moves to the beginning;
# until it is all there, the end is as it was.
to=0
while :; do
    now=$(size) || exit 5
    # Shorter: somebody else is at it.
    [ "$now" -ge "$from" ] || exit 5
    [ "$now" -gt "$from" ] || break
    dd if=$open of=$open bs=64K iflag=skip_bytes,count_bytes oflag=seek_bytes conv=notrunc status=none \
        skip="$from" seek="$to" count=$((now - from)) || exit 5
    to=$((to + now - from))
    from=$now
done
truncate -s "$to" $open || exit 5
echo "now $(($(size) / 1048576)) MiB"
