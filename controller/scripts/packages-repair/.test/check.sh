[ -z "$(dpkg --audit)" ]
