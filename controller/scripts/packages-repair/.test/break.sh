# An installation that was cut short: unpacked, never configured.
sed -i '/^Package: tzdata$/,/^$/ s/^Status: .*/Status: install ok unpacked/' /var/lib/dpkg/status
dpkg --audit | grep -q tzdata || echo "the test could not break anything" >&2
