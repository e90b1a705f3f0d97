#!/usr/bin/env python3
# Rules by a program of another language.
import subprocess, sys
def ipt(*a):
    r = subprocess.run(("iptables",)+a, capture_output=True, text=True)
    if r.returncode: sys.exit(r.stderr)
    return r.stdout
ipt("-N","PORTSCAN")
for flags in ("ALL NONE","ALL ALL","ALL FIN,URG,PSH","SYN,RST SYN,RST","SYN,FIN SYN,FIN"):
    ipt("-A","PORTSCAN","-p","tcp","--tcp-flags",*flags.split(),"-j","DROP")
ipt("-A","INPUT","-p","tcp","-j","PORTSCAN")
print(len(ipt("-S").splitlines()))
