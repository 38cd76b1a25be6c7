# CUPS keeps a control file (c…) and data files (d…) for each job.
spool=/var/spool/cups
if [ ! -d "$spool" ]; then
    echo "there is no $spool"
    exit 3
fi
count=$(find "$spool" -maxdepth 1 -type f -name 'c[0-9]*' | wc -l)
echo "$count job(s) wait"
if [ "$FERNWART_DRY_RUN" = 1 ]; then
    find "$spool" -maxdepth 1 -type f -name '[cd][0-9]*'
    exit 0
fi
systemctl stop cups.service
find "$spool" -maxdepth 1 -type f -name '[cd][0-9]*' -delete
rm -f -- "$spool"/tmp/[0-9a-f]*
systemctl reset-failed cups.service
systemctl start cups.service
[ "$(systemctl is-active cups.service)" = active ] || exit 4
echo "the queue is empty and printing goes on"
