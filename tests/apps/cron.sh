# The daemon starts a job in the next minute. Needs: cron
set -eu
printf '* * * * * root id -un > /tmp/ran\n' > /etc/cron.d/check; chmod 644 /etc/cron.d/check
cron
for i in $(seq 130); do if [ -s /tmp/ran ]; then break; fi; sleep 0.5; done
grep -qx root /tmp/ran
kill "$(cat /run/crond.pid)"
echo fine
