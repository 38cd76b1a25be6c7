# Deletes packed logs, downloaded packages and crash reports of one file system.
mount=$FERNWART_PARAM_MOUNT
days=$FERNWART_PARAM_KEEP_DAYS

free() { df --output=avail -B1 -- "$mount" | tail -1 | tr -d ' '; }
device=$(stat -f -c %i -- "$mount")
list=/tmp/fernwart/list
before=$(free)

# A name with a new line in it would be two; what has one stays.
{
    find /var/cache/apt/archives /var/cache/dnf -xdev -type f ! -path '*
*' \( -name '*.deb' -o -name '*.rpm' \) -print
    find /var/log -xdev -type f ! -path '*
*' \( -name '*.gz' -o -name '*.xz' -o -name '*.zst' -o -name '*.old' -o -name '*.[1-9]' \) \
        -mtime "+$days" -print
    find /var/crash /var/lib/systemd/coredump -xdev -type f ! -path '*
*' -mtime "+$days" -print
} 2>/dev/null | while IFS= read -r file; do
    # Only what lies on the file system that is full.
    [ "$(stat -f -c %i -- "$file")" = "$device" ] && printf '%s\n' "$file"
done > "$list"

bytes=0
while IFS= read -r file; do
    size=$(stat -c %s -- "$file")
    bytes=$((bytes + size))
    echo "$size  $file"
    [ "$FERNWART_DRY_RUN" = 1 ] || rm -f -- "$file"
done < "$list"

journal=0
if [ -d /var/log/journal ] && [ "$(stat -f -c %i /var/log/journal)" = "$device" ] && command -v journalctl >/dev/null; then
    journal=1
    if [ "$FERNWART_DRY_RUN" = 1 ]; then
        echo "the system journal would be cut to $FERNWART_PARAM_JOURNAL_MIB MiB"
    else
        journalctl --quiet --vacuum-size="${FERNWART_PARAM_JOURNAL_MIB}M" || true
    fi
fi

if [ "$FERNWART_DRY_RUN" = 1 ]; then
    echo "would free $((bytes / 1048576)) MiB"
    exit 0
fi
after=$(free)
echo "freed $(((after - before) / 1048576)) MiB on $mount; $((after / 1048576)) MiB are free"
[ "$bytes" -gt 0 ] || [ "$journal" = 1 ] || exit 3
