log=/var/log/pos/debug.log
[ "$(wc -l < $log)" = 100 ] && [ "$(tail -1 $log)" = 400000 ] &&
    [ "$(zcat $log.*.gz | wc -l)" = 400000 ]
