# A small file system with damage: an inode that nothing names any more.
dd if=/dev/zero of=/srv/till.img bs=1M count=16 2>/dev/null
mkfs.ext4 -q -F /srv/till.img
echo receipts > /tmp/receipts
debugfs -w -R 'write /tmp/receipts receipts' /srv/till.img 2>/dev/null
debugfs -w -R 'clri receipts' /srv/till.img 2>/dev/null
