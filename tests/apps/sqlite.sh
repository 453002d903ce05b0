# Two writers on one database with a write-ahead log. Needs: sqlite3
set -eu
cd /tmp; sqlite3 db 'pragma journal_mode=wal; create table t(who, n);' | grep -qx wal
writer() { for i in $(seq 50); do echo "insert into t values('$1', $i);"; done | sqlite3 -cmd '.timeout 30000' db; }
writer a & writer b & wait
test "$(sqlite3 db 'select count(*) || who from t group by who' | tr '\n' ' ')" = "50a 50b "
sqlite3 db 'begin; delete from t; rollback; select count(*) from t' | grep -qx 100
sqlite3 db 'pragma integrity_check' | grep -qx ok
echo fine
