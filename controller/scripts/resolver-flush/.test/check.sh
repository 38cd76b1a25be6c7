[ ! -s /run/cache ]
