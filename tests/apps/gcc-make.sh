# A small project: dependencies, a shared library, twenty files in parallel, sanitised arithmetic. Needs: gcc libc6-dev make
set -eu
mkdir /tmp/project; cd /tmp/project
for i in $(seq 20); do echo "int part$i(int x) { return x + $i; }" > part$i.c; done
{ for i in $(seq 20); do echo "int part$i(int);"; done; echo '#include <stdio.h>'; echo 'int main(void) { int x = 0;'
  for i in $(seq 20); do echo "x = part$i(x);"; done; echo 'printf("%d\n", x); return 0; }'; } > main.c
printf 'OBJECTS := $(patsubst %%.c,%%.o,$(wildcard part*.c))\nall: program\nlibparts.so: $(OBJECTS)\n\tgcc -shared -o $@ $^\nprogram: main.c libparts.so\n\tgcc -o $@ $< -L. -lparts -Wl,-rpath,$(CURDIR)\n%%.o: %%.c\n\tgcc -O2 -fPIC -c $<\n' > Makefile
make -s -j4; test "$(./program)" = 210
touch part3.c; make -n | grep -q part3; make -s; make -q
echo fine
