e2fsck -f -n /srv/till.img
