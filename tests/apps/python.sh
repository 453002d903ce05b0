# Threads, processes, sockets, subprocesses, files. Needs: python3-minimal
set -eu
cd /tmp; cat > check.py <<'END'
import os, selectors, signal, socket, subprocess, threading, time
total, lock = 0, threading.Lock()
def work():
    global total
    for _ in range(1000):
        with lock: total += 1
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert total == 8000
server = socket.create_server(("127.0.0.1", 0)); server.settimeout(20)
def serve():
    peer, _ = server.accept()
    with peer:
        while data := peer.recv(1 << 16): peer.sendall(data[::-1])
t = threading.Thread(target=serve); t.start()
with socket.create_connection(server.getsockname()) as s:
    s.sendall(b"abc"); assert s.recv(3) == b"cba"
t.join()
r, w = os.pipe(); pid = os.fork()
if pid == 0: os.write(w, b"child"); os._exit(7)
assert os.read(r, 10) == b"child" and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert subprocess.run(["sh", "-c", "cat; exit 3"], input=b"in", capture_output=True).stdout == b"in"
p = subprocess.Popen(["sleep", "100"]); p.terminate(); assert p.wait(10) == -signal.SIGTERM
try: subprocess.run(["sleep", "100"], timeout=0.2); raise SystemExit("no timeout")
except subprocess.TimeoutExpired: pass
sel = selectors.DefaultSelector(); a, b = socket.socketpair(); sel.register(a, selectors.EVENT_READ)
assert sel.select(0.05) == []; b.send(b"x"); assert len(sel.select(5)) == 1
heard = []; signal.signal(signal.SIGALRM, lambda *_: heard.append(1)); signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(0.3)
assert heard == [1]
END
ip link set lo up 2>/dev/null || true
python3 check.py
echo fine
