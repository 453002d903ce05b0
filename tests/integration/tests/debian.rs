//! What people run in the first hour, in a Debian of its own: natively (chroot) and as a container, with the same outcome.

use std::io::Write;
use std::process::Command;

use integration::Debian;

/// Name and script. Each prints something, and the same each time.
const CHECKS: [(&str, &str); 9] = [
    ("bash", BASH),
    ("coreutils", COREUTILS),
    ("find", FIND),
    ("tar-gzip", TAR),
    ("perl", PERL),
    ("gcc", GCC),
    ("rust-threads", "/mnt/guest-threads"),
    ("go", GO),
    ("dpkg", "dpkg-query -W -f '${Package} ${Status}\\n' | sort | head -n 40; dpkg -L coreutils | wc -l; dpkg -S /bin/bash"),
];

const BASH: &str = r#"exec bash -c '
set -u
declare -A colour=([apple]=red [pear]=green)
for fruit in "${!colour[@]}"; do echo "$fruit ${colour[$fruit]}"; done | sort
square() { local n=$1; echo $((n * n)); }
total=0; for i in {1..20}; do ((total += $(square $i))); done; echo $total
mapfile -t lines < <(printf "%s\n" c a b | sort); echo "${#lines[@]} ${lines[*]}"
diff <(seq 1 5) <(seq 1 6) || echo "differ: $?"
coproc upper { while read -r word; do echo "${word^^}"; done; }
echo hello >&"${upper[1]}"; read -r answer <&"${upper[0]}"; echo "$answer"; exec {upper[1]}>&-; wait
trap "echo trapped USR1" USR1; kill -USR1 $$
(exit 7) & wait $!; echo "status $?"
sleep 0.1 & sleep 0.1 & wait; echo "waited $?"
cat <<END | tr a-z A-Z
here document $((6 * 7))
END
[[ "2024-05-06" =~ ^([0-9]+)-([0-9]+) ]] && echo "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
printf "%05d|%-6s|%x\n" 42 left 255
exec 5>/tmp/five; echo five >&5; exec 5>&-; cat /tmp/five
ulimit -n 64; ulimit -n
false | true; echo "${PIPESTATUS[@]}"
exec 3< <(echo fed); read -r -u 3 line; echo "$line"
'"#;

const COREUTILS: &str = r#"set -e; cd /tmp
seq 1 1000 > n; sort -rn n | head -n 3; sort -R n | sort -n | md5sum; shuf -i 1-100 | sort -n | tail -n 1
mkdir -p a/b/c; cp -a n a/b/c/n; ln a/b/c/n hard; ln -s a/b/c/n soft; readlink soft; realpath soft; stat -c '%h %s %F %a' hard soft a
chmod 640 hard; stat -c %a a/b/c/n; touch -d '2001-02-03 04:05:06 UTC' hard; date -u -r hard +%FT%T
mv a moved; ls -R moved; du -s --apparent-size --block-size=1 moved/b/c/n | cut -f1; rm -r moved; test ! -e moved
split -n l/4 n part.; wc -l part.*; cat part.* | cmp - n; join n n | wc -l; paste n n | tail -n 1; comm -12 n n | wc -l
tr 0-9 a-j < n | sort -u | head -n 2; cut -c1 n | uniq -c | sort -k1,1nr -k2 | head -n 3; nl n | tail -n 1; fold -w 4 n | wc -l; tac n | head -n 1
base64 n | base64 -d | sha256sum; od -An -tx1 -N 8 n; printf '%s\n' x y | tee t1 t2 > /dev/null; cat t1 t2; expr 6 '*' 7; factor 360
dd if=/dev/zero of=sparse bs=1 count=0 seek=1M 2>/dev/null; stat -c '%s %b' sparse; truncate -s 10 sparse; wc -c < sparse; mkfifo pipe; (echo through > pipe &); cat pipe
install -m 750 n i; stat -c %a i; env -i A=1 env; nice -n 5 nice; id; whoami; tty || true; nproc > /dev/null"#;

const FIND: &str = r#"set -e; cd /tmp; mkdir -p t/one/two t/three; for i in $(seq 1 50); do head -c $((i * 100)) /dev/zero > t/one/f$i.txt; done
touch -d '2000-01-01' t/three/old; ln -s ../one/f1.txt t/three/link; mkfifo t/three/fifo
find t -type f | wc -l; find t -name 'f1*.txt' | sort | head -n 4; find t -size +4k | wc -l; find t -type l -printf '%p -> %l\n'; find t -type p
find t -newermt 2010-01-01 -type f | wc -l; find t -maxdepth 1 -type d | sort; find t -type f -exec wc -c {} + | tail -n 1
find t -name 'f2*' -print0 | xargs -0 -n 3 echo | wc -l; find t -empty | sort; find t -name '*.txt' -delete; find t | sort; find /usr/share/doc -maxdepth 1 | sort | md5sum"#;

const TAR: &str = r#"set -e; cd /tmp; mkdir -p src/deep/er; for i in 1 2 3; do seq 1 ${i}000 > src/f$i; done; ln -s f1 src/link; ln src/f1 src/deep/hard; chmod 711 src/deep
touch -d '2003-04-05 06:07:08 UTC' src/f2; tar cf a.tar src; tar tf a.tar | sort; mkdir out; tar xf a.tar -C out; (cd src; find . -type f -exec md5sum {} + | sort) > want
(cd out/src; find . -type f -exec md5sum {} + | sort) | cmp - want; stat -c '%a %h' out/src/deep out/src/f1; date -u -r out/src/f2 +%F
tar czf a.tgz src; gzip -t a.tgz; tar xzf a.tgz --to-stdout src/f3 | tail -n 1; gzip -9 -n -k a.tar; gunzip -c a.tar.gz | cmp - a.tar
gzip -n < src/f3 | md5sum; zcat a.tgz | tar t | wc -l; tar --sort=name --mtime=@0 --owner=0 --group=0 -cf - src | md5sum; rm -r src out; ls"#;

const PERL: &str = r#"perl -we '
use strict; use POSIX qw(:sys_wait_h strftime); use Socket; use IPC::Open3; use File::Temp qw(tempdir); use Fcntl qw(:flock); use Time::HiRes qw(sleep time);
my %c; $c{$_}++ for split //, "mississippi"; print join(",", map { "$_=$c{$_}" } sort keys %c), "\n";
pipe(my $r, my $w) or die; my $pid = fork // die; if (!$pid) { close $r; print $w "from child $_\n" for 1 .. 3; close $w; POSIX::_exit(5) }
close $w; print while <$r>; waitpid $pid, 0; print "exit ", $? >> 8, "\n";
my $k = open3(my $in, my $out, undef, "tr", "a-z", "A-Z"); print $in "open three\n"; close $in; print <$out>; waitpid $k, 0;
socketpair(my $p, my $q, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; syswrite $p, "through a socket\n"; sysread $q, my $got, 100; print $got;
my $d = tempdir(CLEANUP => 1); open my $f, ">", "$d/x" or die; flock $f, LOCK_EX or die; print $f "x" x 1000; close $f; print -s "$d/x", "\n";
print strftime("%F %T", gmtime 86400 * 365), "\n"; my $t = time; sleep 0.05; print time - $t >= 0.05 ? "slept\n" : "hurried\n";
my @s = sort { $a <=> $b } map { ($_ * 7919) % 1009 } 1 .. 1008; print "$s[0] $s[-1] ", scalar(@s), "\n"; printf "%s\n", join " ", reverse split / /, "order word";
'"#;

const GCC: &str = r#"set -e; cd /tmp
cat > hello.c <<'END'
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static int sum; static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *add(void *n) { for (int i = 0; i < 10000; i++) { pthread_mutex_lock(&lock); sum += (int)(long)n; pthread_mutex_unlock(&lock); } return 0; }
int main(int argc, char **argv) {
    pthread_t t[4];
    for (long i = 0; i < 4; i++) pthread_create(&t[i], 0, add, (void *)(i + 1));
    for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
    printf("hello %d %.6f %s\n", sum, sqrt(2), argv[1]);
    fflush(stdout);
    if (!fork()) { puts("child"); exit(3); }
    int status; wait(&status);
    char *p = malloc(50 << 20); memset(p, 1, 50 << 20);
    printf("%d %d\n", WEXITSTATUS(status), p[(50 << 20) - 1]);
    return 42;
}
END
gcc -Wall -O2 -o hello hello.c -lm -pthread; ./hello dynamic || echo "status $?"; gcc -static -o still hello.c -lm -pthread; ./still static || echo "status $?"
echo 'int f(void) { return 1 }' > bad.c; gcc -c bad.c 2>/dev/null || echo "refused $?""#;

const GO: &str = r#"set -e; cd /tmp; export GOCACHE=/tmp/cache GOFLAGS=-p=2
cat > main.go <<'END'
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"
)

func main() {
	var wg sync.WaitGroup
	results := make(chan int, 100)
	for i := 0; i < 100; i++ {
		wg.Add(1)
		go func(n int) { defer wg.Done(); time.Sleep(time.Millisecond); results <- n * n }(i)
	}
	wg.Wait()
	close(results)
	sum := 0
	for r := range results { sum += r }
	fmt.Println("sum", sum)
	out, err := exec.Command("echo", "from a child").Output()
	fmt.Printf("%s%v\n", out, err)
	os.WriteFile("/tmp/f", make([]byte, 1<<20), 0o600)
	data, _ := os.ReadFile("/tmp/f")
	fmt.Printf("%x\n", sha256.Sum256(data))
	defer func() { fmt.Println("recovered:", recover()); os.Exit(9) }()
	var p *int
	fmt.Println(*p)
}
END
go build -o main main.go; ./main || echo "status $?"; go vet main.go; go version | cut -d' ' -f1-2"#;

#[test]
fn programs_behave_as_natively() {
    // Printed past the test's capture: what didn't run must be seen.
    let say = |text: &str| drop(writeln!(std::io::stderr(), "{text}"));
    if !Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n") {
        return say(&format!("skipped: {} programs of Debian: only root can make a Debian", CHECKS.len()));
    }
    let debian = match Debian::get() {
        Ok(debian) => debian,
        Err(why) => return say(&format!("skipped: {} programs of Debian: {why}", CHECKS.len())),
    };
    let mut failures = Vec::new();
    for (name, script) in CHECKS {
        let outside = debian.native(script);
        assert!(!outside.stdout.is_empty(), "{name}: prints nothing natively: {outside:?}");
        let inside = debian.inside(name, script);
        if inside != outside {
            failures.push(format!("{name}: inside\n{}status {}\n{}", inside.stdout, inside.status, inside.stderr));
            failures.push(format!("{name}: natively\n{}status {}\n{}", outside.stdout, outside.status, outside.stderr));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
