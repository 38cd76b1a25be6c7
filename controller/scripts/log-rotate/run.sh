# Empties a log in place; its newest lines stay, the rest is packed beside it.
log=$FERNWART_PARAM_PATH
if [ -L "$log" ] || [ ! -f "$log" ]; then
    echo "$log is no plain file"
    exit 3
fi
size=$(stat -c %s -- "$log")
echo "$log: $((size / 1048576)) MiB"
if [ "$FERNWART_DRY_RUN" = 1 ]; then
    echo "would keep the newest $FERNWART_PARAM_KEEP_LINES lines"
    exit 0
fi

if [ "$FERNWART_PARAM_PACK" = true ]; then
    packed=$log.$(date +%Y%m%d-%H%M%S).gz
    if ! gzip -c -- "$log" > "$packed"; then
        rm -f -- "$packed"
        exit 4
    fi
    chmod --reference="$log" -- "$packed"
    echo "packed into $packed: $(($(stat -c %s -- "$packed") / 1048576)) MiB"
fi
tail -n "$FERNWART_PARAM_KEEP_LINES" -- "$log" > /tmp/fernwart/newest
# In place: whoever writes it goes on writing to the same file.
cat /tmp/fernwart/newest > "$log"
echo "now $(($(stat -c %s -- "$log") / 1048576)) MiB"
