mkdir -p /var/cache/till
echo 4711 > /var/cache/till/till.lock
touch -d '2 hours ago' /var/cache/till/till.lock
