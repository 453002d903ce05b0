# Job control of a shell without a terminal. Needs: procps
set -m
cd /tmp
sleep 100 & first=$!
sleep 100 & second=$!
test "$(jobs -r | wc -l)" = 2 || exit 2
kill -STOP $first; sleep 0.3
jobs -s | grep -q sleep || { jobs; exit 3; }
test "$(ps -o stat= -p $first | cut -c1)" = T || exit 4
kill -CONT $first; kill $second; wait $second; test $? = 143 || exit 5
kill %1; wait %1; test $? = 143 || exit 6
coproc sorter { sort -n; }
exec {out}<&"${sorter[0]}"
printf '%s\n' 3 1 2 >&"${sorter[1]}"; exec {sorter[1]}>&-
test "$(cat <&$out | tr '\n' ' ')" = "1 2 3 " || exit 7
diff <(seq 3) <(seq 3) || exit 8
trap 'echo usr1 > heard' USR1; kill -USR1 $$; test "$(cat heard)" = usr1 || exit 9
(trap 'exit 5' TERM; sleep 100 & wait) & sleep 0.3; kill $!; wait $!; test $? = 5 || exit 10
echo fine
