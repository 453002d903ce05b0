# Open files of others, found by /proc. Needs: lsof procps psmisc
set -eu
cd /tmp; exec 7> opened; sleep 100 7>&7 & child=$!
lsof -a -p $child -d 7 -Fn | grep -qx n/tmp/opened
fuser opened 2> /dev/null | grep -qw $child
pgrep -x sleep | grep -qx $child
ps -o ppid= -p $child | tr -d ' ' | grep -qx $$
pstree -p $$ | grep -q "sleep($child)"
kill $child
echo fine
